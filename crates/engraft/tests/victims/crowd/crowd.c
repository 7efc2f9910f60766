// Threads that are hard to catch. The first argument says which:
//
//     leaderless    the first thread ends, another one answers
//     churn         eight threads create and join threads without a pause
//     restart       a thread gets 5,000 signals a second, with SA_RESTART; its handler calls a()
//     interrupt     the same without SA_RESTART
//     alternate     a thread waits in a signal handler on an alternate stack
//
// Commands, one a line:
//     ask           "a=N"
//     more          waits until the threads have called a() some more times: "N others", where others are
//                   answers that are neither the old one nor the new one
//     leave         ends the wait on the alternate stack: "left"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

__attribute__((noipa)) int a(void)
{
    return 100;
}

// A call that the compiler cannot look through.
static int (*volatile call_a)(void) = a;

enum { CREATORS = 8, MORE = 500 };

static atomic_long calls, others;
static int to_handler[2], from_handler[2];

static void call(void)
{
    int answer = call_a();
    if (answer != 100 && answer != 101)
        others++;
    calls++;
}

static void *call_once(void *unused)
{
    call();
    return unused;
}

static void *create(void *unused)
{
    for (;;) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, call_once, NULL) || pthread_join(thread, NULL))
            others++;
    }
    return unused;
}

static void on_tick(int signal)
{
    int error = errno;
    (void)signal;
    call();
    errno = error;
}

static void *ticked(void *flags)
{
    struct sigaction action = { .sa_handler = on_tick, .sa_flags = (int)(long)flags };
    struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1 };
    struct itimerspec every = { { 0, 200000 }, { 0, 200000 } };
    timer_t timer;
    event._sigev_un._tid = syscall(SYS_gettid);
    sigaction(SIGUSR1, &action, NULL);
    if (timer_create(CLOCK_MONOTONIC, &event, &timer) || timer_settime(timer, 0, &every, NULL))
        others++;
    for (;;) {
        // In one system call or the other, mostly; interrupted ones must say so and nothing else.
        struct timespec time = { 0, 3000000 };
        if (nanosleep(&time, NULL) && errno != EINTR)
            others++;
        char byte;
        if (read(to_handler[0], &byte, 1) >= 0 || errno != EAGAIN)
            others++;
    }
    return NULL;
}

static void on_alternate(int signal)
{
    char byte = 'i';
    (void)signal;
    if (write(from_handler[1], &byte, 1) != 1 || read(to_handler[0], &byte, 1) != 1)
        others++;
}

static void *alternate(void *unused)
{
    char byte = 'o';
    stack_t stack = { .ss_sp = malloc(65536), .ss_size = 65536 };
    struct sigaction action = { .sa_handler = on_alternate, .sa_flags = SA_ONSTACK };
    if (sigaltstack(&stack, NULL) || sigaction(SIGUSR1, &action, NULL) || raise(SIGUSR1))
        others++;
    if (write(from_handler[1], &byte, 1) != 1)
        others++;
    return unused;
}

static int start(void *(*function)(void *), void *argument)
{
    pthread_t thread;
    return pthread_create(&thread, NULL, function, argument);
}

static void *answer(void *unused)
{
    char line[100], byte;
    while (fgets(line, sizeof line, stdin)) {
        if (strcmp(line, "ask\n") == 0) {
            printf("a=%d\n", call_a());
        } else if (strcmp(line, "more\n") == 0) {
            for (long end = calls + MORE; calls < end;)
                sched_yield();
            printf("%ld others\n", others);
        } else if (strcmp(line, "leave\n") == 0) {
            byte = 'l';
            puts(write(to_handler[1], &byte, 1) == 1 && read(from_handler[0], &byte, 1) == 1 ? "left" : "stuck");
        } else {
            puts("what?");
        }
    }
    exit(others != 0);
    return unused;
}

static void *outlive(void *first)
{
    puts(pthread_join(*(pthread_t *)first, NULL) ? "failed" : "ready");
    return answer(NULL);
}

int main(int argc, char **argv)
{
    const char *kind = argc == 2 ? argv[1] : "";
    char byte;
    int failed = pipe2(to_handler, strcmp(kind, "alternate") ? O_NONBLOCK : 0) || pipe(from_handler);
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!strcmp(kind, "churn"))
        for (int i = 0; i < CREATORS; i++)
            failed |= start(create, NULL);
    if (!strcmp(kind, "restart"))
        failed |= start(ticked, (void *)(long)SA_RESTART);
    if (!strcmp(kind, "interrupt"))
        failed |= start(ticked, NULL);
    if (!strcmp(kind, "alternate"))
        failed |= start(alternate, NULL) || read(from_handler[0], &byte, 1) != 1;
    if (!strcmp(kind, "leaderless")) {
        pthread_t thread;
        static pthread_t first;
        first = pthread_self();
        failed |= pthread_create(&thread, NULL, outlive, &first);
        pthread_exit(NULL);
    }
    puts(failed ? "failed" : "ready");
    answer(NULL);
}
