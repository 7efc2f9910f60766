// What does a call cost? The fix changes a number in tiny() and nothing else, so all that is different
// afterwards is the way there. A thread may stay in linger(), which the fix changes too.
//
// Commands, one a line:
//     time       "ps=N twin_ps=N": picoseconds for one call of tiny() and one turn of a loop, and the same of a
//                function like it that is never patched; each the best of several runs, which take turns, so
//                that both see the same machine
//     version    1, and 2 with the fix
//     enter      lets the thread go into linger(); answers when it is inside
//     leave      lets it leave; answers when it is outside
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { CALLS = 1000000, RUNS = 51 };

static int commands[2], reports[2];

__attribute__((noipa)) int tiny(int n)
{
    return n * 3 + 1;
}

// Never patched.
__attribute__((noipa)) int twin(int n)
{
    return n * 3 + 1;
}

// Blocks in a system call.
__attribute__((noipa)) int linger(int version)
{
    char byte = 'i';
    if (write(reports[1], &byte, 1) != 1 || read(commands[0], &byte, 1) != 1)
        return -1;
    return version + 1;
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

// Time on a CPU: what other programs do does not count.
static long long clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void keep_best(long long *best, long long start)
{
    long long took = clock_ns() - start;
    if (*best == 0 || took < *best)
        *best = took;
}

// Each call needs what the one before has returned: they do not overlap.
static void time_calls(void)
{
    long long best = 0, best_of_twin = 0;
    for (int run = 0; run < RUNS; run++) {
        int n = 0;
        long long start = clock_ns();
        for (int i = 0; i < CALLS; i++)
            n = tiny(n);
        keep_best(&best, start);
        start = clock_ns();
        for (int i = 0; i < CALLS; i++)
            n = twin(n);
        keep_best(&best_of_twin, start);
    }
    printf("ps=%lld twin_ps=%lld\n", best * 1000 / CALLS, best_of_twin * 1000 / CALLS);
}

int main(void)
{
    char line[100];
    pthread_t thread;
    if (pipe(commands) || pipe(reports) || pthread_create(&thread, NULL, run, NULL))
        return 1;
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        if (strcmp(line, "time\n") == 0)
            time_calls();
        else if (strcmp(line, "version\n") == 0)
            printf("%d\n", tiny(0));
        else if (strcmp(line, "enter\n") == 0)
            tell("inside");
        else if (strcmp(line, "leave\n") == 0)
            tell("outside");
        else
            puts("what?");
    }
    return 0;
}
