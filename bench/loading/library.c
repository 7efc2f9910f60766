// A small library that no patch is for.
int twice(int n)
{
    return 2 * n;
}
