/* Stacks to walk: run -> outer -> middle -> target -> what the first argument says, in the first thread or in
 * another one (second argument): "thread", or "clone" with where its stack is ("heap", "mapped", "static"), and
 * "tls" if it is to have a thread pointer of its own. `replaced` is never on the stack while somebody looks; only its traces are. */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline, noclone, noipa))
enum { STACK = 1 << 16 };
#define BARRIER __asm__ volatile("" ::: "memory")

static const char *how, *where;
static atomic_int tid;
static volatile unsigned long sink;
static int ends[2];

static int is(const char *name) { return !strcmp(how, name); }
static void announce(void) { tid = syscall(SYS_gettid); }

NOINLINE void below(void) { BARRIER; }
/* Leaves a return address into itself behind, below the stack pointer of its caller. */
NOINLINE void replaced(void) { below(); BARRIER; }
NOINLINE void replaced_deep(void) { char room[256]; __asm__ volatile("" :: "r"(room) : "memory"); replaced(); BARRIER; }

/* An array that nobody has written to lies where the dead frames were. */
NOINLINE void uninitialised(void) {
    char array[1024];
    __asm__ volatile("" :: "r"(array));
    announce();
    for (;;) pause();
}
NOINLINE void holds_pointer(void) {
    char *volatile pointer = (char *)replaced + 1;
    announce();
    for (;;) pause();
    (void)pointer;
}
NOINLINE void handler(int signal) { announce(); for (;;) pause(); }
NOINLINE void deep(unsigned long n) {
    if (n) deep(n - 1);
    else { announce(); for (;;) pause(); }
    BARRIER;
}

/* No call frame information at all. */
void bare(void);
__asm__(".text\n.globl bare\n.type bare, @function\nbare:\n sub $24, %rsp\n call target\n add $24, %rsp\n ret\n.size bare, .-bare\n");

/* The last instruction is a call; what it returns to would be another function. */
__attribute__((noinline, noclone, noreturn)) void never_returns(void) { announce(); for (;;) pause(); }
NOINLINE void ends_in_call(void) { never_returns(); }

NOINLINE void returning_handler(int signal) { BARRIER; }

/* As bare, but without a file, and with information that is not registered anywhere. A negative offset: the return
 * address is marked as undefined. */
static void (*make_image(void (*callee)(void), int cfa_offset))(void) {
    /* push $1 (three times), mov $callee, %rax, call *%rax, add $24, %rsp, ret */
    unsigned char code[] = {0x6a, 1, 0x6a, 1, 0x6a, 1, 0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xd0, 0x48, 0x83, 0xc4, 0x18, 0xc3};
    unsigned char table[] = {
        20, 0, 0, 0, 0, 0, 0, 0, 1, 'z', 'R', 0, 1, 0x78, 16, 1, 0, 0x0c, 7, 8, 0x90, 1, 0, 0,
        28, 0, 0, 0, 28, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, sizeof code, 0, 0, 0, 0, 0, 0, 0, 0, 0x46, cfa_offset < 0 ? 7 : 0x0e, cfa_offset < 0 ? 16 : cfa_offset, 0, 0, 0, 0,
        0, 0, 0, 0};
    char *image = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(code + 8, &callee, 8);
    memcpy(image, code, sizeof code);
    memcpy(table + 32, &image, 8);
    memcpy(image + 4096, table, sizeof table);
    mprotect(image, 4096, PROT_READ | PROT_EXEC);
    printf("%lx %zx %lx %zx\n", (long)image, sizeof code, (long)image + 4096, sizeof table);
    return (void (*)(void))image;
}

NOINLINE void leaf(unsigned long n) { sink += n; }
NOINLINE unsigned long with_frame(unsigned long n) {
    volatile unsigned long array[20];
    for (unsigned long i = 0; i < n % 20; i++) array[i] = i;
    leaf(n);
    return array[n % 20] + toupper(n & 127);
}
NOINLINE void with_many_registers(unsigned long n) {
    unsigned long a = with_frame(n), b = with_frame(n + 1), c = with_frame(n + 2), d = with_frame(n + 3);
    leaf(a + b);
    leaf(c * d);
    sink += a ^ b ^ c ^ d;
}
NOINLINE int compare(const void *a, const void *b) { leaf(1); return *(int *)a - *(int *)b; }
NOINLINE void sorting(unsigned long n) {
    int array[8];
    for (int i = 0; i < 8; i++) array[i] = (n * (i + 7)) % 13;
    qsort(array, 8, sizeof *array, compare);
}
NOINLINE void formatting(unsigned long n) { char text[64]; snprintf(text, sizeof text, "%lu %s", n, how); sink += strlen(text); }
NOINLINE void aligned(unsigned long n) {
    char array[n % 64 + 1] __attribute__((aligned(64)));
    memset(array, n, n % 64);
    leaf(array[0]);
}
/* Between calls, its own prologue and epilogue, stubs for library calls, library code, the vDSO. */
NOINLINE void busy(void) {
    announce();
    if (is("stepped")) pause();
    for (unsigned long n = 0;; n++) {
        with_many_registers(n);
        sorting(n);
        formatting(n);
        aligned(n);
    }
}
NOINLINE void clock_spinner(void) {
    announce();
    for (;;) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); sink += t.tv_nsec; }
}

NOINLINE void target(void) {
    if (is("nanosleep")) { announce(); for (;;) sleep(1000); }
    else if (is("poll")) { announce(); poll(NULL, 0, -1); }
    else if (is("read")) { announce(); char c; if (read(ends[0], &c, 1)) abort(); }
    else if (is("futex")) {
        static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
        pthread_mutex_lock(&m);
        announce();
        pthread_mutex_lock(&m);
    }
    else if (is("handler") || is("handler-alternate") || is("handler-bare"))
        syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGUSR1);
    else if (is("fault")) *(volatile int *)8 = 1;
    else if (is("deep")) deep(10000);
    else if (is("too-deep")) deep(100000);
    else if (is("pointer") || is("pointer-in-coroutine")) holds_pointer();
    else if (is("stale")) { replaced_deep(); uninitialised(); }
    else if (is("stale-spinning")) { announce(); replaced(); for (;;) __asm__ volatile(""); }
    else if (is("busy") || is("stepped")) busy();
    else if (is("noreturn")) ends_in_call();
    else if (is("vdso")) clock_spinner();
    else { announce(); for (;;) pause(); }
    BARRIER;
}
NOINLINE void middle(void) {
    if (is("bare")) bare();
    else if (is("image")) make_image(target, 32)();
    else if (is("image-end")) make_image(target, -1)();
    else if (is("image-stuck")) make_image(target, 0)();
    else if (is("image-wrong")) make_image(target, 24)();
    else target();
    BARRIER;
}
NOINLINE void outer(void) { char array[100]; __asm__ volatile("" :: "r"(array) : "memory"); middle(); BARRIER; }

static ucontext_t back, coroutine;

/* A coroutine on a stack with this upper end: it ends with its thread, and is marked like the start of one. */
void start_on(char *top);
__asm__(".text\n.globl start_on\n.type start_on, @function\nstart_on:\n mov %rdi, %rsp\n"
        ".cfi_startproc\n.cfi_undefined rip\n call outer\n mov $60, %eax\n syscall\n hlt\n.cfi_endproc\n.size start_on, .-start_on\n");

/* A restorer that nothing describes. */
void bare_restorer(void);
__asm__(".text\nnop\n.globl bare_restorer\nbare_restorer:\n mov $15, %eax\n syscall\n");
struct kernel_action { void (*handler)(int); unsigned long flags; void (*restorer)(void); unsigned long mask; };

/* Two threads of which one goes on where the other one was born. The other one sleeps, and never comes back. */
static ucontext_t here, there;
static atomic_int there_is_set, swapped;
NOINLINE void *wait_there(void *unused) {
    getcontext(&there);
    if (!swapped) { there_is_set = 1; for (;;) pause(); }
    announce();
    for (;;) pause();
    return unused;
}
static int wait_there_cloned(void *unused) { wait_there(NULL); return 0; }
static void go_to_other(void) {
    while (!there_is_set) usleep(100);
    swapped = 1;
    swapcontext(&here, &there);
}

NOINLINE void *run(void *unused) {
    struct sigaction a = {.sa_handler = handler, .sa_flags = is("handler-alternate") ? SA_ONSTACK : 0};
    stack_t s = {.ss_sp = malloc(1 << 16), .ss_size = 1 << 16};
    sigaltstack(&s, NULL);
    sigaction(SIGUSR1, &a, NULL);
    sigaction(SIGSEGV, &a, NULL);
    a.sa_handler = returning_handler;
    sigaction(SIGUSR2, &a, NULL);
    if (is("handler-bare")) {
        struct kernel_action k = {handler, 0x04000000, bare_restorer, 0};
        syscall(SYS_rt_sigaction, SIGUSR1, &k, NULL, 8);
    }
    if (is("pointer-in-coroutine")) {
        getcontext(&coroutine);
        coroutine.uc_stack.ss_sp = alloca(1 << 16);
        coroutine.uc_stack.ss_size = 1 << 16;
        coroutine.uc_link = &back;
        makecontext(&coroutine, outer, 0);
        swapcontext(&back, &coroutine);
    } else if (is("coroutine")) {
        getcontext(&coroutine);
        coroutine.uc_stack.ss_sp = malloc(STACK);
        coroutine.uc_stack.ss_size = STACK;
        coroutine.uc_link = &back;
        makecontext(&coroutine, outer, 0);
        swapcontext(&back, &coroutine);
    } else if (is("coroutine-that-exits")) start_on((char *)malloc(STACK) + STACK);
    else if (is("swapped")) go_to_other();
    else outer();
    BARRIER;
    return unused;
}

NOINLINE int run_cloned(void *unused) { run(NULL); BARRIER; return 0; }

static char static_stack[STACK] __attribute__((aligned(16)));

static char *clone_stack(const char *kind) {
    if (strstr(kind, "static")) return static_stack + STACK;
    if (strstr(kind, "heap")) return (char *)malloc(STACK) + STACK;
    return (char *)mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0) + STACK;
}

/* A thread pointer with a copy of this thread's variables: those of the C library and of ours are few. */
static void *copied_thread_pointer(void) {
    enum { BELOW = 256, ABOVE = 2304 };
    char *pointer = (char *)malloc(BELOW + ABOVE + 64) + BELOW;
    pointer = (char *)(((unsigned long)pointer + 63) & -64UL);
    memcpy(pointer - BELOW, (char *)__builtin_thread_pointer() - BELOW, BELOW + ABOVE);
    ((void **)pointer)[0] = ((void **)pointer)[2] = pointer;
    return pointer;
}

static void start_clone(const char *kind, int (*body)(void *)) {
    int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
    int own = strstr(kind, "tls") != NULL;
    if (clone(body, clone_stack(kind), flags | (own ? CLONE_SETTLS : 0), NULL, NULL, own ? copied_thread_pointer() : NULL, NULL) < 0)
        abort();
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("ready\n");
    how = argv[1];
    where = argv[2];
    if (pipe(ends)) return 1;
    pthread_t t;
    if (is("swapped") && !strcmp(where, "thread")) start_clone("mapped", wait_there_cloned);
    else if (is("swapped")) pthread_create(&t, NULL, wait_there, NULL);
    if (!strcmp(where, "thread")) pthread_create(&t, NULL, run, NULL);
    else if (!strncmp(where, "clone", 5)) start_clone(where, run_cloned);
    else {
        printf("%d\n", getpid());
        run(NULL);
    }
    while (!tid) usleep(100);
    printf("%d\n", tid);
    for (;;) pause();
}
