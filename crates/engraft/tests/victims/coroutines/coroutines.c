// A program with coroutines: on the heap and suspended by swapcontext, or, with OWN_SWITCH, in mappings of their own
// and suspended by a few instructions that are called as those of a known library are.
//
// Each coroutine calls begin(), which suspends itself and then calls end(): both must be of one version.
//
// Commands, one a line:
//     inside     all coroutines go on until they are suspended in begin(): "inside"
//     outside    all go on until they are suspended outside of it: "mixed=N version=N", with how many saw two
//                versions, and the last one
//     finish     their stacks are given back: "finished"
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "version.h"

enum { COUNT = 10, STACK = 64 * 1024 };

static int mixed, version, current;
static void *stacks[COUNT];

static void run(void);

#ifdef OWN_SWITCH
void *co_switch(void **from, void *to);
__asm__(".globl co_switch\n.type co_switch, @function\nco_switch:\n"
        "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "mov %rsp, (%rdi)\nmov %rsi, %rsp\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n"
        ".size co_switch, . - co_switch\n");

static void *outer, *inner[COUNT];

static void make(int index)
{
    stacks[index] = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    void **top = (void **)((char *)stacks[index] + STACK);
    *--top = NULL;
    *--top = (void *)run;
    inner[index] = top - 6;
}

static void enter(int index)
{
    current = index;
    co_switch(&outer, inner[index]);
}

static void leave(void)
{
    co_switch(&inner[current], outer);
}

static void give_back(int index)
{
    munmap(stacks[index], STACK);
}
#else
static ucontext_t outer, inner[COUNT];

static void make(int index)
{
    stacks[index] = malloc(STACK);
    getcontext(&inner[index]);
    inner[index].uc_stack.ss_sp = stacks[index];
    inner[index].uc_stack.ss_size = STACK;
    makecontext(&inner[index], run, 0);
}

static void enter(int index)
{
    current = index;
    swapcontext(&outer, &inner[index]);
}

static void leave(void)
{
    swapcontext(&inner[current], &outer);
}

static void give_back(int index)
{
    memset(&inner[index], 0, sizeof inner[index]);
    free(stacks[index]);
}
#endif

__attribute__((noipa)) void end(int begun)
{
    version = VERSION;
    mixed += begun != VERSION;
}

__attribute__((noipa)) void begin(void)
{
    int begun = VERSION;
    leave();
    end(begun);
}

static void run(void)
{
    for (;;) {
        begin();
        leave();
    }
}

static void all(void (*what)(int))
{
    for (int index = 0; index < COUNT; index++)
        what(index);
}

int main(void)
{
    char line[64];
    setvbuf(stdout, NULL, _IOLBF, 0);
    all(make);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        if (strcmp(line, "inside\n") == 0) {
            all(enter);
            puts("inside");
        } else if (strcmp(line, "outside\n") == 0) {
            all(enter);
            printf("mixed=%d version=%d\n", mixed, version);
        } else if (strcmp(line, "finish\n") == 0) {
            all(give_back);
            puts("finished");
        } else {
            puts("what?");
        }
    }
    return 0;
}
