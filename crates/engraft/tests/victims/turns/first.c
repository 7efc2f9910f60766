// One of two libraries that take turns.
int f(void)
{
    return 100;
}
