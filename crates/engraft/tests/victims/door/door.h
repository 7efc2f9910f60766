#include <semaphore.h>
#include <ucontext.h>

#define NOIPA __attribute__((noipa))

// A thread that is inside nearly all the time.
struct worker {
    sem_t go;
    // What it does inside, each time that it may go on: a version, or 0 for nothing.
    int (*during)(struct worker *);
    // Which version it is inside of, and which one the last call was; -1 for a call of two versions.
    int inside, last;
    int calls;
    ucontext_t here, there;
    int answer;
};

// The functions that the patch changes, all four at once.
int f(struct worker *worker);
int g(struct worker *worker);
int ends_in_jump(struct worker *worker);
int jumped_to(struct worker *worker, int version);

// Says that it is inside, and waits until it may go on.
void stay(struct worker *worker, int version);
