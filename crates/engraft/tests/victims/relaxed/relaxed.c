// Each line is a number: it is given to all functions of part.c, in this thread and in a new one. The answer is
// "old" or "new", or what went wrong.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "relaxed.h"

static __thread int rounds, sum;
static char wrong[100];
static long step;

static void check(const char *name, int n, int found)
{
    if (step < 0)
        step = found - n;
    if (found != n + step)
        snprintf(wrong, sizeof wrong, "%s: %d of %d", name, found, n);
}

static void ask_all(int n)
{
    check("calls", n, calls(n));
    check("jumps", n, jumps(n));
    check("takes", n, takes(n));
    check("follows", n, follows(n));
    check("compares", n, compares(same, n));
    check("computes", n, computes(n));
    check("tests", n, tests(1UL << 63, n));
    check("looks_for_absent", n, looks_for_absent(n));
    check("thread_locals", sum, thread_locals(n));
    check("asks", n, asks(n));
    check("counts", n, counts("text", n));
    rounds++;
    sum += n;
    if (asked != rounds || seen != 30 + sum)
        snprintf(wrong, sizeof wrong, "asked %d times of %d, seen %d", asked, rounds, seen);
}

static void *in_thread(void *n)
{
    ask_all(atoi(n));
    ask_all(atoi(n));
    return NULL;
}

int main(void)
{
    char line[100];
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        pthread_t thread;
        step = -1;
        wrong[0] = '\0';
        ask_all(atoi(line));
        pthread_create(&thread, NULL, in_thread, line);
        pthread_join(thread, NULL);
        puts(wrong[0] ? wrong : step == 0 ? "old" : step == 1000 ? "new" : "neither");
    }
    return 0;
}
