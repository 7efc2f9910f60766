// Threads that stand in the first bytes of functions, where a jump to new code goes.
//
// usage: entries THREADS. So many threads call the tiny function tiny() over and over.
// Commands, one a line:
//     enter      has a thread sleep in a system call in the first bytes of sleep_here(); answers when it does
//     leave      wakes it; answers with what sleep_here() returned
//     version    what version() says
//     rest       has the threads pause that call tiny(); answers when all do, with the number of wrong answers
//     work       has them go on
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NOIPA __attribute__((noipa))

enum { BATCH = 1000 };

// While it sleeps, its next instruction is the one at the fifth byte.
__attribute__((naked)) NOIPA long sleep_here(int file, void *bytes, size_t length, int call)
{
    (void)file, (void)bytes, (void)length, (void)call;
    __asm__("mov %ecx, %eax\n syscall\n add $1000, %rax\n ret");
}

NOIPA int version(void)
{
    return 1;
}

NOIPA int tiny_part(int n)
{
    return n + 1000;
}

NOIPA int tiny(int n)
{
    int part = tiny_part(n);
    return part - n == 1000 ? 1 : -1;
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int threads, resting, rest;
static long wrong;

static void *call_tiny(void *unused)
{
    for (;;) {
        long mine = 0;
        for (int i = 0; i < BATCH; i++)
            mine += tiny(i) < 0;
        pthread_mutex_lock(&lock);
        wrong += mine;
        resting++;
        pthread_cond_broadcast(&changed);
        while (rest)
            pthread_cond_wait(&changed, &lock);
        resting--;
        pthread_mutex_unlock(&lock);
    }
    return unused;
}

static void set_rest(int wanted)
{
    pthread_mutex_lock(&lock);
    rest = wanted;
    pthread_cond_broadcast(&changed);
    while (rest && resting < threads)
        pthread_cond_wait(&changed, &lock);
    printf("wrong=%ld\n", wrong);
    pthread_mutex_unlock(&lock);
}

static volatile long sleeper_tid;
static int commands[2], alarms[2], reports[2];

static void *sleeper(void *unused)
{
    char byte;
    sleeper_tid = syscall(SYS_gettid);
    while (read(commands[0], &byte, 1) == 1) {
        long answer = sleep_here(alarms[0], &byte, 1, SYS_read);
        if (write(reports[1], &answer, sizeof answer) != sizeof answer)
            break;
    }
    return unused;
}

static void wait_until_it_sleeps(void)
{
    char path[64], text[64], expected[32];
    snprintf(expected, sizeof expected, "%d %#x ", SYS_read, alarms[0]);
    do {
        // It may be about to say which thread it is.
        snprintf(path, sizeof path, "/proc/self/task/%ld/syscall", sleeper_tid);
        FILE *file = fopen(path, "r");
        if (!file || !fgets(text, sizeof text, file))
            text[0] = 0;
        if (file)
            fclose(file);
    } while (strncmp(text, expected, strlen(expected)) != 0);
}

int main(int argc, char **argv)
{
    char line[100];
    pthread_t thread;
    threads = argc == 2 ? atoi(argv[1]) : 0;
    if (pipe(commands) || pipe(alarms) || pipe(reports))
        return 1;
    if (pthread_create(&thread, NULL, sleeper, NULL))
        return 1;
    for (int i = 0; i < threads; i++)
        if (pthread_create(&thread, NULL, call_tiny, NULL))
            return 1;
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        long answer;
        if (strcmp(line, "enter\n") == 0) {
            if (write(commands[1], line, 1) != 1)
                return 1;
            wait_until_it_sleeps();
            puts("asleep");
        } else if (strcmp(line, "leave\n") == 0) {
            if (write(alarms[1], line, 1) != 1)
                return 1;
            if (read(reports[0], &answer, sizeof answer) != sizeof answer)
                return 1;
            printf("%ld\n", answer);
        } else if (strcmp(line, "version\n") == 0) {
            printf("%d\n", version());
        } else if (strcmp(line, "rest\n") == 0) {
            set_rest(1);
        } else if (strcmp(line, "work\n") == 0) {
            set_rest(0);
        } else {
            puts("what?");
        }
    }
    return 0;
}
