/* Waits. With `dlopen PATH`, `dlmopen PATH`, `dlclose`: loads and unloads libraries. With `threads N`: starts
 * sleeping threads. `exit-leader`: its first thread ends, another one answers. `vfork`: waits for a child
 * that sleeps. `mask`, `altstack`: asked for by tests that look at what stays as it is. */
#define _GNU_SOURCE
#ifndef STATIC
#include <dlfcn.h>
#endif
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int answer(void) { return 42; }

static void *sleeper(void *unused) {
    for (;;) pause();
    return unused;
}

/* From now on this thread may do what it needs to answer, and dies of everything else. */
static int restrict_calls(void) {
#define ALLOW(nr) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
        ALLOW(SYS_read), ALLOW(SYS_write), ALLOW(SYS_restart_syscall), ALLOW(SYS_rt_sigreturn),
        ALLOW(SYS_mmap), ALLOW(SYS_munmap), ALLOW(SYS_mprotect), ALLOW(SYS_nanosleep),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return -1;
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static void *talk(void *unused) {
    char line[4096];
    void *last = NULL;
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        char *argument = strchr(line, ' ');
        if (argument) *argument++ = 0;
        if (!strcmp(line, "address")) printf("%p\n", (void *)answer);
        else if (!strcmp(line, "pid")) printf("%d\n", getpid());
        else if (!strcmp(line, "seccomp")) printf("%d\n", restrict_calls());
        else if (!strcmp(line, "nanosleep")) {
            struct timespec t = {0, atol(argument) * 1000000};
            printf("%ld\n", syscall(SYS_nanosleep, &t, NULL));
        } else if (!strcmp(line, "threads")) {
            pthread_attr_t small;
            pthread_attr_init(&small);
            pthread_attr_setstacksize(&small, 1 << 16);
            for (int i = atoi(argument); i > 0; i--) {
                pthread_t t;
                if (pthread_create(&t, &small, sleeper, NULL)) return NULL;
            }
            printf("ok\n");
        }
#ifndef STATIC
        else if (!strcmp(line, "dlopen")) {
            last = dlopen(argument, RTLD_NOW);
            printf("%p\n", last ? dlsym(last, "in_library") : NULL);
        } else if (!strcmp(line, "dlmopen")) {
            last = dlmopen(LM_ID_NEWLM, argument, RTLD_NOW);
            printf("%p\n", last ? dlsym(last, "in_library") : NULL);
        } else if (!strcmp(line, "dlclose")) printf("%d\n", dlclose(last));
#endif
        else if (!strcmp(line, "vfork")) {
            if (!vfork()) { pause(); _exit(0); }
            printf("child ended\n");
        } else printf("?\n");
    }
    (void)last;
    exit(0);
    return unused;
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc > 1 && !strcmp(argv[1], "exit-leader")) {
        pthread_t t;
        pthread_create(&t, NULL, talk, NULL);
        printf("ready\n");
        pthread_exit(NULL);
    }
    printf("ready\n");
    talk(NULL);
}
