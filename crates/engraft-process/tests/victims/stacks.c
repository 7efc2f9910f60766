/* Threads inside `target`: called and asleep below it, in a signal handler on an alternate stack, or with no
 * more than its address in a variable. The first argument says which. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

static const char *how;
static atomic_int tid;
static char *memory;

static volatile int for_ever = 1;

static void announce_and_sleep(void) {
    tid = syscall(SYS_gettid);
    while (for_ever) pause();
}

/* The compiler knows that this does not return, and puts nothing behind the call. */
__attribute__((noinline, noreturn)) static void sleep_for_ever(void) {
    tid = syscall(SYS_gettid);
    for (;;) pause();
}

static void handler(int signal) { announce_and_sleep(); }

__attribute__((noinline, noclone)) void target(void) {
    if (!strcmp(how, "spinning")) {
        tid = syscall(SYS_gettid);
        for (;;) __asm__ volatile("");
    }
    if (!strcmp(how, "handler") || !strcmp(how, "handler-own")) {
        raise(SIGUSR1);
    } else if (!strcmp(how, "called for ever")) {
        sleep_for_ever();
    } else announce_and_sleep();
    __asm__ volatile("" ::: "memory");
}

/* Stands between target and functions whose address is on some stack: an end is not an entry. */
__attribute__((used)) static void neighbour(void) { __asm__ volatile("nop"); }

static ucontext_t back, coroutine;
static void in_coroutine(void) { announce_and_sleep(); }

__attribute__((noinline)) static void holds_pointer(void (*volatile pointer)(void)) {
    announce_and_sleep();
    pointer();
}

/* The alternate stack is an array in a frame above: deeper frames are below it. */
__attribute__((noinline)) static void alternate_in_frame(void) {
    char array[1 << 14];
    stack_t s = {.ss_sp = array, .ss_size = sizeof array};
    sigaltstack(&s, NULL);
    target();
    __asm__ volatile("" :: "r"(array) : "memory");
}

static void *thread(void *unused) {
    struct sigaction a = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
    sigaction(SIGUSR1, &a, NULL);
    if (!strcmp(how, "handler-own")) alternate_in_frame();
    stack_t s = {.ss_sp = memory, .ss_size = 1 << 16};
    sigaltstack(&s, NULL);
    if (!strcmp(how, "pointer")) holds_pointer(target);
    else if (!strcmp(how, "coroutine")) {
        getcontext(&coroutine);
        coroutine.uc_stack.ss_sp = memory;
        coroutine.uc_stack.ss_size = 1 << 16;
        coroutine.uc_link = &back;
        makecontext(&coroutine, in_coroutine, 0);
        swapcontext(&back, &coroutine);
    } else if (!strcmp(how, "clear")) announce_and_sleep();
    else target();
    return unused;
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    how = argv[1];
    memory = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pthread_t t;
    if (!strcmp(argv[2], "thread")) {
        pthread_create(&t, NULL, thread, NULL);
        while (!tid) usleep(100);
        printf("ready\n%d\n", tid);
        for (;;) pause();
    }
    printf("ready\n%d\n", getpid());
    thread(NULL);
}
