// A thread named "lingerer" enters linger() and stays there until it is told to leave.
//
// Commands, one a line:
//     enter      lets the thread enter; answers when it is inside
//     leave      lets it leave; answers when it is outside
//     version    what version() says, which the fix changes too
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int commands[2], reports[2];

// Blocks in a system call, far from any point where it could notice a patch.
__attribute__((noipa)) int linger(int version)
{
    char byte = 'i';
    if (write(reports[1], &byte, 1) != 1)
        return -1;
    if (read(commands[0], &byte, 1) != 1)
        return -1;
    return version + 1;
}

__attribute__((noipa)) int version(void)
{
    return 1;
}

static void *run(void *unused)
{
    char byte;
    while (read(commands[0], &byte, 1) == 1) {
        if (linger(byte) < 0)
            break;
        byte = 'o';
        if (write(reports[1], &byte, 1) != 1)
            break;
    }
    return unused;
}

// Sends a command to the thread and waits until it has done it.
static void tell(const char *answer)
{
    char byte = 'c';
    if (write(commands[1], &byte, 1) == 1 && read(reports[0], &byte, 1) == 1)
        puts(answer);
}

int main(void)
{
    char line[100];
    pthread_t thread;
    if (pipe(commands) || pipe(reports) || pthread_create(&thread, NULL, run, NULL))
        return 1;
    pthread_setname_np(thread, "lingerer");
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        if (strcmp(line, "enter\n") == 0)
            tell("inside");
        else if (strcmp(line, "leave\n") == 0)
            tell("outside");
        else if (strcmp(line, "version\n") == 0)
            printf("%d\n", version());
        else
            puts("what?");
    }
    return 0;
}
