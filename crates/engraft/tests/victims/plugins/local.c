// A library with a variable of each thread.
int seen = -1;
static __thread volatile int calls = 40;

static int count(void)
{
    return ++calls > 40;
}

int answer(void)
{
    return 100;
}

__attribute__((constructor)) static void constructor(void)
{
    seen = count() ? answer() : 0;
}
