// A function of which the compiler puts what is unlikely elsewhere: rare.cold. The program never calls it.
#include <stdio.h>
#include <stdlib.h>

__attribute__((cold, noipa)) void complain(int n)
{
    fprintf(stderr, "%d is too many\n", n);
}

__attribute__((noipa)) int rare(int n, volatile int *seen)
{
    if (n > 1000) {
        complain(n);
        complain(*seen + 1);
        abort();
    }
    *seen += n;
    return *seen * 3 + 1;
}

int (*volatile never)(int, volatile int *) = rare;

int main(void)
{
    puts("ready");
    fflush(stdout);
    while (getchar() != EOF)
        ;
    return 0;
}
