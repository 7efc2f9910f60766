// A program that gives rights up: each argument names one thing.
//
//     no-calls       a system call other than reading, writing and the like ends the process
//     loader-calls   the same, but it may load libraries
//     no-new-code    what was ever writable never becomes executable (PR_SET_MDWE)
//     undumpable     as a program that has changed its user
//
// Commands: "ask" says "a=N b=N", with "-" for b without a library; "open FILE" and "close" load and
// unload one; "seen" is what b() said to its constructor.
#include <dlfcn.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#endif

__attribute__((noipa)) int a(void)
{
    return 100;
}

// A call that the compiler cannot look through.
static int (*volatile call_a)(void) = a;

static const int own_calls[] = {
    SYS_read, SYS_write, SYS_futex, SYS_brk, SYS_exit, SYS_exit_group, SYS_rt_sigreturn,
    SYS_restart_syscall, SYS_mmap, SYS_munmap, SYS_mprotect, SYS_fstat, SYS_newfstatat,
};
static const int loader_calls[] = {
    SYS_openat, SYS_close, SYS_pread64,
};

enum { OWN = sizeof own_calls / sizeof *own_calls, LOADER = sizeof loader_calls / sizeof *loader_calls };

static int filter(int with_loader)
{
    struct sock_filter code[2 * (OWN + LOADER) + 2], *next = code;
    *next++ = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (int i = 0; i < OWN + (with_loader ? LOADER : 0); i++) {
        unsigned call = i < OWN ? own_calls[i] : loader_calls[i - OWN];
        *next++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1);
        *next++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    }
    *next++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    struct sock_fprog program = { .len = next - code, .filter = code };
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static int confine(const char *what)
{
    if (!strcmp(what, "no-calls"))
        return filter(0);
    if (!strcmp(what, "loader-calls"))
        return filter(1);
    if (!strcmp(what, "no-new-code"))
        return prctl(PR_SET_MDWE, 1, 0, 0, 0);
    if (!strcmp(what, "undumpable"))
        return prctl(PR_SET_DUMPABLE, 0);
    return 1;
}

int main(int argc, char **argv)
{
    char line[300], word[256];
    void *library = NULL;
    setvbuf(stdout, NULL, _IOLBF, 0);
    // The allocator asks for random numbers once.
    free(malloc(1));
    for (int i = 1; i < argc; i++) {
        if (confine(argv[i])) {
            puts("cannot");
            return 0;
        }
    }
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "open %255s", word) == 1) {
            library = dlopen(word, RTLD_NOW);
            printf("%s\n", library ? "opened" : dlerror());
        } else if (strcmp(line, "close\n") == 0 && library) {
            dlclose(library);
            library = NULL;
            puts("closed");
        } else if (strcmp(line, "ask\n") == 0 && library) {
            printf("a=%d b=%d\n", call_a(), ((int (*)(void))dlsym(library, "b"))());
        } else if (strcmp(line, "ask\n") == 0) {
            printf("a=%d b=-\n", call_a());
        } else if (strcmp(line, "seen\n") == 0 && library) {
            printf("b=%d\n", *(const int *)dlsym(library, "seen_by_constructor"));
        } else {
            puts("what?");
        }
    }
    return 0;
}
