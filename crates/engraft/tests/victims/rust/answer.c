// The part in C.
static int asked;

int from_c(int n)
{
    asked++;
    return n + 100;
}
