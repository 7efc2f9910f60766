// A program whose fix needs a function of a library that is not loaded.
#include <math.h>
#include <stdio.h>

__attribute__((noipa)) double root(double x)
{
    return x / 3;
}

int main(void)
{
    char line[100];
    double x;
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin) && sscanf(line, "%lf", &x) == 1)
        printf("%g\n", root(x));
    return 0;
}
