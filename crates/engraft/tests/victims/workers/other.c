// Another program of the same project; the fix in other.patch is for it alone.
#include <stdio.h>

__attribute__((noipa)) int only_in_other(int n)
{
    return n * 1000 + 1;
}

int main(int argc, char **argv)
{
    (void)argv;
    printf("%d\n", only_in_other(argc));
    return 0;
}
