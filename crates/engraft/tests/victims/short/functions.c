// Functions shorter than a jump, without and with a neighbour right behind them. The last one is the last code of
// the program before .fini.
#define NOIPA __attribute__((noipa))

// With 0 the functions have three bytes, with anything else six.
#ifndef VALUE
#define VALUE 0
#endif

NOIPA int first(void)
{
    return VALUE;
}

NOIPA int neighbour(int x)
{
    return x + 1;
}

NOIPA int last(void)
{
    return VALUE;
}
