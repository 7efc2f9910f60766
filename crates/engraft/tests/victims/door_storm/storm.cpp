// Threads run chains of calls over and over, with hardly an instruction between two chains: a thread that is looked at is
// inside nearly always. Chains end by returning, by longjmp and by exceptions; signals interrupt them, on the
// same stack or on an alternate one, and their handlers run chains, too. Each thread looks whether a chain saw
// one version only, and whether a handler saw that of the chain that it has interrupted.
//
// usage: storm THREADS. Commands, one a line:
//     round        lets each thread run some chains more, and counts the last one of each by its version:
//                  "1=0 2=8"
//     counts       since the beginning; unlike are handlers' chains of another version than what they have interrupted:
//                  "chains=N handlers=N mixed=N unlike=N"
#include <atomic>
#include <csetjmp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <pthread.h>
#include <unistd.h>

#include "chain.h"

enum { CHAINS = 32, MOST_THREADS = 64, STACK = 64 << 10 };

struct thread {
    pthread_t id;
    struct chain *volatile current;
    sigjmp_buf back;
    std::atomic<long> chains, handlers, mixed, unlike;
    std::atomic<int> last;
    bool alternate;
};

static thread threads[MOST_THREADS];
static thread_local struct thread *self;

extern "C" NOIPA void record(struct chain *chain, int version)
{
    if (chain->calls == MOST_CALLS)
        abort();
    chain->versions[chain->calls] = version;
    chain->calls = chain->calls + 1;
}

extern "C" NOIPA void work(int length)
{
    for (volatile int i = 0; i < length; i = i + 1)
        ;
}

extern "C" NOIPA void leave(struct chain *chain)
{
    if (chain->way == RETURNS)
        return;
    // From somewhere in the next call on the thread is outside.
    chain->inside = 0;
    if (chain->way == JUMPS)
        siglongjmp(self->back, 1);
    throw chain->depth;
}

// The version that all of it ran; 0 if there is more than one.
static int version_of(const struct chain *chain)
{
    for (int i = 1; i < chain->calls; i++)
        if (chain->versions[i] != chain->versions[0])
            return 0;
    return chain->versions[0];
}

// Runs a chain, however that ends, and returns its version; 0 for a mixed one.
NOIPA static int run(struct chain *chain)
{
    self->current = chain;
    if (sigsetjmp(self->back, 0) == 0) {
        try {
            f1(chain);
        } catch (int) {
        }
    }
    self->current = nullptr;
    return version_of(chain);
}

static void handle(int)
{
    struct thread *me = self;
    struct chain *outer = me->current;
    struct chain chain = {};
    chain.depth = 3;
    f1(&chain);
    int version = version_of(&chain);
    if (version == 0)
        me->mixed++;
    else if (outer != nullptr && outer->inside && outer->versions[0] != version)
        me->unlike++;
    me->handlers++;
}

static void *body(void *argument)
{
    struct thread *me = self = (struct thread *)argument;
    if (me->alternate) {
        stack_t stack = {};
        stack.ss_sp = malloc(STACK);
        stack.ss_size = STACK;
        sigaltstack(&stack, nullptr);
    }
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGUSR1);
    pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
    for (unsigned number = 0;; number++) {
        struct chain chain = {};
        chain.depth = 1 + number % 4;
        chain.way = (enum way)(number / 4 % WAYS);
        // Most are short, and some take as long as a thread may have a processor.
        chain.work = number % 4096 ? 100 : 1000000;
        int version = run(&chain);
        if (version == 0)
            me->mixed++;
        me->last = version;
        me->chains++;
    }
    return nullptr;
}

// Sends signals to all threads in turn.
static void *ring(void *argument)
{
    int count = (int)(long)argument;
    for (int i = 0;; i = (i + 1) % count) {
        usleep(300);
        pthread_kill(threads[i].id, SIGUSR1);
    }
    return nullptr;
}

static void one_round(int count)
{
    long by_version[3] = {};
    for (int i = 0; i < count; i++) {
        long until = threads[i].chains + CHAINS;
        while (threads[i].chains < until)
            usleep(500);
    }
    for (int i = 0; i < count; i++)
        by_version[threads[i].last]++;
    printf("1=%ld 2=%ld\n", by_version[1], by_version[2]);
}

static void counts(int count)
{
    long chains = 0, handlers = 0, mixed = 0, unlike = 0;
    for (int i = 0; i < count; i++) {
        chains += threads[i].chains;
        handlers += threads[i].handlers;
        mixed += threads[i].mixed;
        unlike += threads[i].unlike;
    }
    printf("chains=%ld handlers=%ld mixed=%ld unlike=%ld\n", chains, handlers, mixed, unlike);
}

int main(int argc, char **argv)
{
    int count = argc > 1 ? atoi(argv[1]) : 0;
    if (count < 1 || count > MOST_THREADS)
        return 1;
    struct sigaction action = {};
    action.sa_handler = handle;
    action.sa_flags = SA_ONSTACK | SA_RESTART;
    sigaction(SIGUSR1, &action, nullptr);
    // Only the threads that run chains get it.
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    for (int i = 0; i < count; i++) {
        threads[i].alternate = i % 2;
        if (pthread_create(&threads[i].id, nullptr, body, &threads[i]))
            return 1;
    }
    pthread_t ringer;
    if (pthread_create(&ringer, nullptr, ring, (void *)(long)count))
        return 1;
    setvbuf(stdout, nullptr, _IOLBF, 0);
    puts("ready");
    char line[100];
    while (fgets(line, sizeof line, stdin)) {
        if (strcmp(line, "round\n") == 0)
            one_round(count);
        else if (strcmp(line, "counts\n") == 0)
            counts(count);
        else
            puts("what?");
    }
    _exit(0);
}
