// Threads that do nothing but call a function again and again, and sleep in it.
//
// Commands, one a line:
//     start KIND N   starts N threads, and answers when all of them are inside. The kinds:
//                    plain      call f
//                    turns      call f from two places by turns, the second one deeper
//                    jump       call a function that ends in a jump to another one
//                    coroutine  call f, which calls g in a coroutine, whose stack is an array of the thread's
//                               first function
//                    signal     the same, in a handler on an alternate signal stack
//                    generated  call f from code made while the program runs, which no unwind table describes
//                    moving     the same, first from one place, then always from another one that is much further
//                               in, or for every second thread further out
//                    nested     call f, which calls f twice from such code
//     turn           lets all go on, and answers when all of them are inside again: by version the calls
//                    that have ended and those that they are inside of; calls of two versions are mixed
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "door.h"

enum { MOST = 200, STACK = 64 << 10 };

static struct worker workers[MOST];
static int count;
static sem_t inside;
static _Thread_local struct worker *self;

NOIPA void stay(struct worker *worker, int version)
{
    worker->inside = version;
    sem_post(&inside);
    while (sem_wait(&worker->go))
        ;
}

static void *plain(void *argument)
{
    struct worker *worker = argument;
    for (;;)
        worker->last = f(worker);
    return NULL;
}

NOIPA static int deeper(struct worker *worker)
{
    volatile char room[300];
    room[0] = 0;
    return f(worker) + room[0];
}

static void *turns(void *argument)
{
    struct worker *worker = argument;
    for (;;) {
        worker->last = deeper(worker);
        worker->last = f(worker);
    }
    return NULL;
}

static void *jump(void *argument)
{
    struct worker *worker = argument;
    for (;;)
        worker->last = ends_in_jump(worker);
    return NULL;
}

static void in_coroutine(void)
{
    struct worker *worker = self;
    for (;;) {
        worker->answer = g(worker);
        swapcontext(&worker->there, &worker->here);
    }
}

static int call_in_coroutine(struct worker *worker)
{
    swapcontext(&worker->here, &worker->there);
    return worker->answer;
}

static void *coroutine(void *argument)
{
    // At both ends of the thread's first frame.
    char stack[STACK] __attribute__((aligned(16)));
    struct worker *worker = argument;
    self = worker;
    getcontext(&worker->there);
    worker->there.uc_stack.ss_sp = stack;
    worker->there.uc_stack.ss_size = sizeof stack;
    makecontext(&worker->there, in_coroutine, 0);
    worker->during = call_in_coroutine;
    for (;;)
        worker->last = f(worker);
    return NULL;
}

static void handler(int number)
{
    (void)number;
    self->answer = g(self);
}

static int call_in_handler(struct worker *worker)
{
    raise(SIGUSR1);
    return worker->answer;
}

static void *on_signal(void *argument)
{
    char stack[STACK] __attribute__((aligned(16)));
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
    struct worker *worker = argument;
    self = worker;
    if (sigaltstack(&alternate, NULL))
        abort();
    worker->during = call_in_handler;
    for (;;)
        worker->last = f(worker);
    return NULL;
}

// Calls its second argument with its first one.
static const unsigned char instructions[] = {
    0x48, 0x83, 0xec, 0x08, // sub $8, %rsp
    0xff, 0xd6,             // call *%rsi
    0x48, 0x83, 0xc4, 0x08, // add $8, %rsp
    0xc3,                   // ret
};
static int (*generated_call)(struct worker *worker, int (*function)(struct worker *worker));

static void generate(void)
{
    void *memory = mmap(NULL, sizeof instructions, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        abort();
    memcpy(memory, instructions, sizeof instructions);
    generated_call = memory;
}

static void *generated(void *argument)
{
    struct worker *worker = argument;
    for (;;)
        worker->last = generated_call(worker, f);
    return NULL;
}

// Without what earlier calls have left there: a return address into f would count.
NOIPA static int far_in(struct worker *worker)
{
    volatile char room[4000];
    for (size_t i = 0; i < sizeof room; i++)
        room[i] = 0;
    return generated_call(worker, f) + room[0];
}

static void *moving(void *argument)
{
    struct worker *worker = argument;
    int is_in = (worker - workers) % 2;
    worker->last = is_in ? far_in(worker) : generated_call(worker, f);
    for (;;)
        worker->last = is_in ? generated_call(worker, f) : far_in(worker);
    return NULL;
}

static int call_twice(struct worker *worker)
{
    worker->during = NULL;
    int first = generated_call(worker, f);
    int second = generated_call(worker, f);
    worker->during = call_twice;
    return first == second ? first : -1;
}

static void *nested(void *argument)
{
    struct worker *worker = argument;
    worker->during = call_twice;
    for (;;)
        worker->last = f(worker);
    return NULL;
}

static void start(const char *kind, int many)
{
    static const struct {
        const char *name;
        void *(*body)(void *);
    } kinds[] = {{"plain", plain}, {"turns", turns}, {"jump", jump}, {"coroutine", coroutine}, {"signal", on_signal},
                 {"generated", generated}, {"moving", moving}, {"nested", nested}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        for (int j = 0; strcmp(kinds[i].name, kind) == 0 && j < many && count < MOST; j++) {
            pthread_t thread;
            sem_init(&workers[count].go, 0, 0);
            if (pthread_create(&thread, NULL, kinds[i].body, &workers[count++]))
                abort();
            sem_wait(&inside);
        }
    }
    puts("ok");
}

static void turn(void)
{
    int ended[3] = {0}, now[3] = {0};
    for (int i = 0; i < count; i++)
        sem_post(&workers[i].go);
    for (int i = 0; i < count; i++)
        sem_wait(&inside);
    for (int i = 0; i < count; i++) {
        ended[workers[i].last < 0 ? 0 : workers[i].last]++;
        now[workers[i].inside]++;
    }
    printf("ended 1=%d 2=%d mixed=%d, inside 1=%d 2=%d\n", ended[1], ended[2], ended[0], now[1], now[2]);
}

int main(void)
{
    char line[100], kind[20];
    int many;
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
    sem_init(&inside, 0, 0);
    sigaction(SIGUSR1, &action, NULL);
    setvbuf(stdout, NULL, _IOLBF, 0);
    generate();
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "start %19s %d", kind, &many) == 2)
            start(kind, many);
        else if (strcmp(line, "turn\n") == 0)
            turn();
        else
            puts("what?");
    }
    return 0;
}
