// The library with b(), and a constructor that uses it.
int b(void)
{
    return 100;
}

int seen_by_constructor = -1;

__attribute__((constructor)) static void constructor(void)
{
    seen_by_constructor = b();
}
