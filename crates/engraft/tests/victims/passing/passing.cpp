// Exceptions, a cancelled thread and a backtrace pass through functions in C, which get patched.
//
// Commands, one a line:
//     ask       what these functions return when nothing is thrown
//     throw     throws through them
//     trace     whether a backtrace from inside of them gets as far as main()
//     sleep     starts a thread that sleeps in rest(), below a cleanup handler; answers when it is there
//     cancel    cancels it, and says whether the handler has run
//     enter     starts a thread that waits inside of through(); answers when it is there
//     leave     has it throw through direct(), and then through what it is inside of
#include "patched.h"
#include <cstdio>
#include <cstring>
#include <execinfo.h>
#include <pthread.h>
#include <unistd.h>

static int pipe_in[2], pipe_out[2];
static thread_local bool throwing;
static thread_local int destroyed, tidied;
static thread_local int (*last)(void);

struct Guard {
    ~Guard() { destroyed++; }
};

__attribute__((noipa)) int callee(void)
{
    if (throwing)
        throw 42;
    return 1;
}

__attribute__((noipa)) static int inner(void)
{
    Guard guard;
    return direct();
}

__attribute__((noipa)) static int passed(void)
{
    return through(last);
}

// What becomes of an exception that is thrown through all of these functions.
static const char *attempt(int (*call)(void))
{
    destroyed = tidied = 0;
    last = call;
    throwing = true;
    try {
        tidy(passed, &tidied);
    } catch (int thrown) {
        throwing = false;
        return thrown == 42 && destroyed == 1 && tidied ? "caught" : "caught, and something is wrong";
    }
    return "nothing was thrown";
}

static bool seen_main;
int main(void);

__attribute__((noipa)) static int traced(void)
{
    void *frames[50];
    int count = backtrace(frames, 50);
    seen_main = false;
    for (int at = 0; at < count; at++) {
        auto distance = (const char *)frames[at] - (const char *)&main;
        seen_main |= distance > 0 && distance < 1000;
    }
    return 1;
}

static void report(char byte)
{
    if (write(pipe_out[1], &byte, 1) != 1)
        _exit(1);
}

static bool cleaned_up;
static int sleeper_tidied;

static void clean_up(void *)
{
    cleaned_up = true;
}

__attribute__((noipa)) static int resting(void)
{
    return rest(pipe_out[1], pipe_in[0]);
}

static void *sleeper(void *)
{
    pthread_cleanup_push(clean_up, nullptr);
    tidy(resting, &sleeper_tidied);
    pthread_cleanup_pop(0);
    return nullptr;
}

__attribute__((noipa)) static int waiting(void)
{
    char byte;
    report('i');
    if (read(pipe_in[0], &byte, 1) != 1)
        return 0;
    // What it calls now is what its thread is to see, old or new.
    try {
        direct();
    } catch (int) {
    }
    return inner();
}

static void *visitor(void *)
{
    return (void *)attempt(waiting);
}

int main(void)
{
    char line[100], byte = 'c';
    pthread_t thread;
    if (pipe(pipe_in) || pipe(pipe_out))
        return 1;
    setvbuf(stdout, nullptr, _IOLBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        void *result = nullptr;
        line[strcspn(line, "\n")] = 0;
        if (!strcmp(line, "ask")) {
            last = direct;
            printf("%d\n", tidy(passed, &tidied));
        } else if (!strcmp(line, "throw")) {
            puts(attempt(inner));
        } else if (!strcmp(line, "trace")) {
            through(traced);
            puts(seen_main ? "as far as main" : "cut off");
        } else if (!strcmp(line, "sleep") || !strcmp(line, "enter")) {
            auto run = line[0] == 's' ? sleeper : visitor;
            if (pthread_create(&thread, nullptr, run, nullptr) || read(pipe_out[0], &byte, 1) != 1)
                return 1;
            puts("inside");
        } else if (!strcmp(line, "cancel")) {
            cleaned_up = false;
            sleeper_tidied = 0;
            pthread_cancel(thread);
            pthread_join(thread, &result);
            puts(result == PTHREAD_CANCELED && cleaned_up && sleeper_tidied ? "cleaned up" : "not cleaned up");
        } else if (!strcmp(line, "leave")) {
            if (write(pipe_in[1], &byte, 1) != 1)
                return 1;
            pthread_join(thread, &result);
            puts((const char *)result);
        } else {
            puts("what?");
        }
    }
    return 0;
}
