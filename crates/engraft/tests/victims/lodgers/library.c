// A library with b(), and a constructor that uses it.
#define NOIPA __attribute__((noipa))

NOIPA int b(void)
{
    return 100;
}

int seen_by_constructor = -1;

__attribute__((constructor)) static void constructor(void)
{
    seen_by_constructor = b();
}
