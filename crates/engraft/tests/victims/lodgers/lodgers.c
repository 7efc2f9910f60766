// Threads that are inside of stay() for as long as one likes, and do things there.
//
// Commands, one a line; N is the number that `start` has answered:
//     a            "a=N", by the main thread
//     start KIND   a thread goes into stay() and waits there for orders: its number. KIND says how it waits:
//                    sleep     asleep in a system call
//                    spin      without any call
//                    vdso      asking for the time, mostly inside of the vDSO
//                    shared    asleep; made by clone() with the main thread's thread pointer
//                    bare      asleep; made by clone() with no thread pointer
//                    own       asleep; made by clone() with a thread pointer of its own
//                    coroutine asleep; in a context that makecontext() has made
//                  and where it waits, if not in stay():
//                    pointer   with the addresses of a() and stay() in its frame
//                    stale     with a value in its frame that looks like a return into stay()
//                    outside   nowhere near
//     tell N X     has the thread do X where it is, and says what came of it:
//                    a         calls a()
//                    b         calls the library's b()
//                    clone     makes a thread with its own thread pointer, which goes into stay(): its number
//                    fork      makes a child, whose first thread goes on in its place: its number
//                    open      loads the library: what b() said to the constructor
//                    exit      ends, from where it is: 0 when it has ended
//                    leave     leaves: what stay() has returned
//                    enter     goes into stay() again, after "leave" or from outside: 1
//     child X      the same for the last child's thread that goes on; it ends when it leaves once more
//     open FILE    loads the library: what b() said to the constructor
//     close        unloads it: "closed"
//     b            "b=N"
//     fork         makes a child whose main thread takes the orders of `child`: its number
//     work N       starts N threads that call a() without a pause
//     calls N      waits until these threads have called a() N times more: their "old=N new=N other=N"
//     map PLACE    maps a page there, with its address in its first word: "mapped"
//     look PLACE   what is in the word there
//     copy PLACE   makes a page that may only be read, a copy of the one there: "copied"
//     churn        starts four threads that make and join threads which call a()
#include <dlfcn.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "lodgers.h"

enum { MOST = 64, PAGE = 4096, CREATORS = 4, STACK = 1 << 18, ARCH_SET_FS_CODE = 0x1002 };

// Orders to a child's thread come through memory that both share.
static struct lodger *lodgers, *childs;
static pthread_t threads[MOST];
static int count;

// Calls that the compiler cannot look through.
static int (*volatile call_a)(void) = a;
static int (*volatile call_stay)(struct lodger *) = stay;
static int (*volatile call_b)(void);
static void *library;
static char library_file[300];

// System calls without the C library, which wants a thread pointer.
static long raw(long number, long one, long two, long three, long four)
{
    long result;
    register long fourth __asm__("r10") = four;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(one), "S"(two), "d"(three), "r"(fourth)
                     : "rcx", "r11", "memory");
    return result;
}

static void wake(volatile int *word)
{
    raw(SYS_futex, (long)word, FUTEX_WAKE, 1, 0);
}

static void spend(const struct lodger *lodger)
{
    struct timespec time;
    struct timeval other;
    switch (lodger->kind[0]) {
    case 'v':
        for (int i = 0; i < 500; i++) {
            clock_gettime(CLOCK_MONOTONIC, &time);
            gettimeofday(&other, NULL);
        }
        break;
    case 's':
        if (lodger->kind[1] == 'p') {
            __builtin_ia32_pause();
            break;
        }
        // Falls through.
    default:
        raw(SYS_futex, (long)&lodger->order, FUTEX_WAIT, 0, 0);
    }
}

static int open_library(void)
{
    library = dlopen(library_file, RTLD_NOW);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        return -1;
    }
    call_b = (int (*)(void))dlsym(library, "b");
    return *(const int *)dlsym(library, "seen_by_constructor");
}

static int start_raw(const char *kind);

static void done(struct lodger *lodger, int answer)
{
    lodger->answer = answer;
    lodger->order = 0;
    wake(&lodger->order);
}

// A child does not outlive a test that has failed.
static void end_with_parent(void)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != lodgers[0].answer)
        _exit(0);
}

NOIPA int next(struct lodger *lodger)
{
    while (lodger->order == 0)
        spend(lodger);
    int order = lodger->order;
    pid_t child;
    switch (order) {
    case 'a':
        done(lodger, call_a());
        break;
    case 'b':
        done(lodger, call_b());
        break;
    case 'c':
        done(lodger, start_raw("shared"));
        break;
    case 'f':
        child = fork();
        if (child) {
            done(lodger, child);
            break;
        }
        end_with_parent();
        // From here on this frame is the child's.
        while ((order = next(childs)) != 'l') {
        }
        return order;
    case 'o':
        done(lodger, open_library());
        break;
    case 'x':
        pthread_exit(NULL);
    }
    return order;
}

// Waits for orders with addresses of what the fix changes in its frame.
NOIPA static int stay_with_values(struct lodger *lodger, long offset)
{
    volatile long values[16];
    for (int i = 0; i < 16; i += 2) {
        values[i] = (long)call_a + (offset ? 1 : 0);
        values[i + 1] = (long)call_stay + offset;
    }
    lodger->inside = 1;
    int order;
    do
        order = next(lodger);
    while (order != 'l' && order != 'e');
    return values[0] ? order : 0;
}

static void run(struct lodger *lodger)
{
    int order = lodger->kind[0] == 'p' || lodger->kind[0] == 'o' || !strcmp(lodger->kind, "stale") ? 0 : 'e';
    if (lodger->kind[0] == 'p')
        order = stay_with_values(lodger, 0);
    else if (!strcmp(lodger->kind, "stale"))
        order = stay_with_values(lodger, 8);
    lodger->inside = 1;
    for (;;) {
        if (order == 'e') {
            if (lodger->order == 'e')
                done(lodger, 1);
            int answer = call_stay(lodger);
            if (getpid() != lodgers[0].answer) {
                // A child has gone on here.
                done(childs, answer);
                while ((order = next(childs)) != 'l') {
                }
                _exit(0);
            }
            done(lodger, answer);
        } else if (order == 'l') {
            done(lodger, 0);
        }
        order = next(lodger);
    }
}

static struct lodger *in_coroutine;

static void run_coroutine(void)
{
    run(in_coroutine);
}

static void *run_thread(void *argument)
{
    static ucontext_t back, coroutine;
    struct lodger *lodger = argument;
    if (lodger->kind[0] != 'c')
        run(lodger);
    in_coroutine = lodger;
    getcontext(&coroutine);
    coroutine.uc_stack.ss_sp = malloc(STACK);
    coroutine.uc_stack.ss_size = STACK;
    coroutine.uc_link = &back;
    makecontext(&coroutine, run_coroutine, 0);
    swapcontext(&back, &coroutine);
    return NULL;
}

static int run_raw(void *argument)
{
    struct lodger *lodger = argument;
    if (lodger->kind[0] == 'b')
        raw(SYS_arch_prctl, ARCH_SET_FS_CODE, 0, 0, 0);
    for (;;) {
        int answer = call_stay(lodger);
        done(lodger, answer);
        int order;
        while ((order = next(lodger)) != 'e') {
        }
        done(lodger, 1);
    }
    return 0;
}

// A thread pointer with a copy of this thread's variables: those of the C library are few.
static char *copied_thread_pointer(void)
{
    enum { BELOW = 256, ABOVE = 2304, ALIGNMENT = 64 };
    static char blocks[MOST][BELOW + ABOVE] __attribute__((aligned(ALIGNMENT)));
    char *pointer = blocks[count] + BELOW;
    memcpy(pointer - BELOW, (char *)__builtin_thread_pointer() - BELOW, BELOW + ABOVE);
    ((void **)pointer)[0] = ((void **)pointer)[2] = pointer;
    return pointer;
}

// A thread that the C library knows nothing of.
static int start_raw(const char *kind)
{
    struct lodger *lodger = &lodgers[++count];
    char *stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
    char *pointer = NULL;
    lodger->kind = kind;
    if (kind[0] == 'o') {
        flags |= CLONE_SETTLS;
        pointer = copied_thread_pointer();
    }
    if (stack == MAP_FAILED || clone(run_raw, stack + STACK, flags, lodger, NULL, pointer, NULL) < 0)
        return -1;
    while (!lodger->inside)
        sched_yield();
    return count;
}

static int start(const char *kind)
{
    static const char *const raw[] = { "shared", "bare", "own" };
    static const char *const kinds[] = { "sleep", "spin", "vdso", "coroutine", "pointer", "stale", "outside" };
    if (count + 1 == MOST)
        return -1;
    for (size_t i = 0; i < sizeof raw / sizeof *raw; i++)
        if (!strcmp(raw[i], kind))
            return start_raw(raw[i]);
    struct lodger *lodger = &lodgers[++count];
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(kinds[i], kind))
            lodger->kind = kinds[i];
    char name[16];
    if (!lodger->kind || pthread_create(&threads[count], NULL, run_thread, lodger))
        return -1;
    snprintf(name, sizeof name, "lodger-%d", count);
    pthread_setname_np(threads[count], name);
    while (!lodger->inside)
        sched_yield();
    return count;
}

static int tell(struct lodger *lodger, const char *what)
{
    lodger->order = what[0] == 'e' && what[1] == 'x' ? 'x' : what[0];
    wake(&lodger->order);
    if (lodger->order == 'x' && lodger != childs)
        return pthread_join(threads[lodger - lodgers], NULL);
    while (lodger->order)
        sched_yield();
    return lodger->answer;
}

static atomic_long old, new, other;

static void *work(void *unused)
{
    for (;;) {
        int answer = call_a();
        ++*(answer == 100 ? &old : answer == 101 ? &new : &other);
        usleep(100);
    }
    return unused;
}

static void *call_once(void *unused)
{
    int answer = call_a();
    ++*(answer == 100 ? &old : answer == 101 ? &new : &other);
    return unused;
}

static void *churn(void *unused)
{
    for (;;) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, call_once, NULL) || pthread_join(thread, NULL))
            ++other;
    }
    return unused;
}

static void calls(long more)
{
    long first[] = { old, new, other };
    while (old + new + other < first[0] + first[1] + first[2] + more)
        usleep(100);
    printf("old=%ld new=%ld other=%ld\n", old - first[0], new - first[1], other - first[2]);
}

static int start_workers(int number, void *(*body)(void *))
{
    pthread_t thread;
    while (number-- > 0)
        if (pthread_create(&thread, NULL, body, NULL))
            return 1;
    return 0;
}

static int fork_main(void)
{
    int child = fork();
    if (child)
        return child;
    int order;
    end_with_parent();
    while ((order = next(childs)) != 'l') {
    }
    done(childs, 0);
    _exit(0);
}

static const char *map_page(char *place)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    void **page = mmap(place, PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (page == MAP_FAILED)
        return "failed";
    *page = page;
    return "mapped";
}

// Between two pages that may be written, so that it is a mapping of its own.
static const char *copy_page(const char *place)
{
    char *pages = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED)
        return "failed";
    memcpy(pages + PAGE, place, PAGE);
    return mprotect(pages + PAGE, PAGE, PROT_READ) ? "failed" : "copied";
}

int main(void)
{
    char line[400], word[300];
    int number;
    void *place;
    size_t size = (MOST + 2) * sizeof *lodgers;
    lodgers = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (lodgers == MAP_FAILED)
        return 1;
    childs = &lodgers[MOST + 1];
    childs->kind = "child";
    // So that a thread can tell whether it is still in the program or in a child.
    lodgers[0].answer = getpid();
    // Children end with us, and nobody waits for them.
    signal(SIGCHLD, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        if (!strcmp(line, "a\n"))
            printf("a=%d\n", call_a());
        else if (!strcmp(line, "b\n") && library)
            printf("b=%d\n", call_b());
        else if (sscanf(line, "start %299s", word) == 1)
            printf("%d\n", start(word));
        else if (sscanf(line, "tell %d %299s", &number, word) == 2 && number > 0 && number <= count)
            printf("%d\n", tell(&lodgers[number], word));
        else if (sscanf(line, "child %299s", word) == 1)
            printf("%d\n", tell(childs, word));
        else if (sscanf(line, "library %299s", library_file) == 1)
            puts("ok");
        else if (!strcmp(line, "open\n"))
            printf("%d\n", open_library());
        else if (!strcmp(line, "close\n") && library)
            puts(dlclose(library) ? "failed" : (library = NULL, "closed"));
        else if (!strcmp(line, "fork\n"))
            printf("%d\n", fork_main());
        else if (sscanf(line, "work %d", &number) == 1)
            puts(start_workers(number, work) ? "failed" : "working");
        else if (sscanf(line, "map %p", &place) == 1)
            puts(map_page(place));
        else if (sscanf(line, "look %p", &place) == 1)
            printf("%p\n", *(void **)place);
        else if (sscanf(line, "copy %p", &place) == 1)
            puts(copy_page(place));
        else if (!strcmp(line, "churn\n"))
            puts(start_workers(CREATORS, churn) ? "failed" : "churning");
        else if (sscanf(line, "calls %d", &number) == 1)
            calls(number);
        else
            puts("what?");
    }
    // The children too.
    childs->order = 'l';
    wake(&childs->order);
    return 0;
}
