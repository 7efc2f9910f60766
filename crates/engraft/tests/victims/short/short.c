// Answers each line with what the three functions say, and "bye" at a normal end, from a destructor.
#include <stdio.h>

int first(void), neighbour(int), last(void);

static int (*volatile call_first)(void) = first;
static int (*volatile call_neighbour)(int) = neighbour;
static int (*volatile call_last)(void) = last;

__attribute__((destructor)) static void at_end(void)
{
    puts(call_neighbour(1) == 2 ? "bye" : "the neighbour is gone");
}

int main(void)
{
    char line[100];
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin))
        printf("first=%d neighbour=%d last=%d\n", call_first(), call_neighbour(1), call_last());
    return 0;
}
