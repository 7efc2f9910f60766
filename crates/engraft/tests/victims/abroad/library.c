int b(void)
{
    return 100;
}
