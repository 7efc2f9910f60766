// Threads that are hard to find outside of what a patch replaces.
//
// usage: progress KIND THREADS, where each thread
//     asleep     calls a function over and over that sleeps for 300 ms
//     tiny       calls a function of a few instructions over and over
//     elsewhere  computes, and calls nothing
//     inside     calls a function over and over that computes for some 50 ms
//     stuck      computes as with elsewhere; one more never comes back from the function that sleeps
// Commands, one a line:
//     version    what version() says, which the fix changes too
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOIPA __attribute__((noipa))

NOIPA int version(void)
{
    return 1;
}

NOIPA int sleep_in_it(int milliseconds)
{
    return poll(NULL, 0, milliseconds) + 1000;
}

NOIPA int tiny(int n)
{
    return n + 1000;
}

NOIPA unsigned compute_in_it(unsigned turns)
{
    for (volatile unsigned i = 0; i < turns; i++)
        ;
    return turns + 1000;
}

static void *asleep(void *unused)
{
    for (;;)
        sleep_in_it(300);
    return unused;
}

static void *stay(void *unused)
{
    sleep_in_it(-1);
    return unused;
}

static void *call_tiny(void *unused)
{
    for (int n = 0;; n = tiny(n) & 0xffff)
        ;
    return unused;
}

static void *elsewhere(void *unused)
{
    for (volatile unsigned long n = 0;; n++)
        ;
    return unused;
}

static void *inside(void *unused)
{
    for (;;)
        compute_in_it(25000000);
    return unused;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void *(*run)(void *);
    } kinds[] = {{"asleep", asleep}, {"tiny", call_tiny}, {"elsewhere", elsewhere}, {"inside", inside},
                 {"stuck", elsewhere}};
    char line[100];
    int threads = argc == 3 ? atoi(argv[2]) : 0;
    for (unsigned kind = 0; argc == 3 && kind < sizeof kinds / sizeof kinds[0]; kind++)
        for (int i = 0; strcmp(kinds[kind].name, argv[1]) == 0 && i < threads; i++) {
            pthread_t thread;
            if (pthread_create(&thread, NULL, kinds[kind].run, NULL))
                return 1;
        }
    pthread_t thread;
    if (argc == 3 && strcmp(argv[1], "stuck") == 0 && pthread_create(&thread, NULL, stay, NULL))
        return 1;
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin))
        printf("version=%d\n", version());
    return 0;
}
