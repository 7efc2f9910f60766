// A library that needs another one.
int deep(void);

int seen = -1;

int answer(void)
{
    return deep();
}

__attribute__((constructor)) static void constructor(void)
{
    seen = deep();
}
