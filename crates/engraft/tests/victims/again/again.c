// A program that runs itself again and again, after a moment each time.
#include <stdio.h>
#include <unistd.h>

__attribute__((noipa)) int answer(void)
{
    return 1;
}

int main(int count, char **arguments)
{
    char *again[] = {arguments[0], "again", NULL};
    if (count == 1) {
        puts("ready");
        fflush(stdout);
    }
    usleep(500 * answer());
    execv("/proc/self/exe", again);
    return 1;
}
