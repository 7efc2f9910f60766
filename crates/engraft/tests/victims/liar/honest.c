// The neighbour: it answers each line with a number.
#include <stdio.h>
#include <stdlib.h>

int answer(int question);

int main(void)
{
    char line[100];
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin))
        printf("%d\n", answer(atoi(line)));
    return 0;
}
