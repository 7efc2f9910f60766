// The library that needing.so is linked with.
int deep(void)
{
    return 100;
}
