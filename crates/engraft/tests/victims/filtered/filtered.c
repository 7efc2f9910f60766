// One thread, asleep in a system call under a seccomp filter. No call may return before its time is up or a
// signal of the program's own comes, and then with what signal(7) promises.
//
//     filtered CALL FILTER SECONDS
//
// Each SIGUSR1 ends the call: "a=N NAME", where NAME is the error, and the call is made again. A call that returns
// by itself says "a=N returned R NAME", or "too early" if its time is not up.
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

__attribute__((noipa)) int a(void)
{
    return 100;
}

// A call that the compiler cannot look through.
static int (*volatile call_a)(void) = a;

static int seconds, epoll, word;

static int in_nanosleep(void)
{
    struct timespec time = { seconds, 0 };
    return syscall(SYS_nanosleep, &time, NULL);
}
static int in_clock_nanosleep(void)
{
    struct timespec time = { seconds, 0 };
    errno = clock_nanosleep(CLOCK_MONOTONIC, 0, &time, NULL);
    return errno ? -1 : 0;
}
static int in_poll(void)
{
    struct pollfd one = { 0, POLLIN, 0 };
    return poll(&one, 1, seconds * 1000);
}
static int in_futex(void)
{
    struct timespec time = { seconds, 0 };
    return syscall(SYS_futex, &word, FUTEX_WAIT, 0, &time, NULL, 0);
}
static int in_select(void)
{
    struct timeval time = { seconds, 0 };
    fd_set set;
    FD_ZERO(&set);
    FD_SET(0, &set);
    return select(1, &set, NULL, NULL, &time);
}
static int in_epoll_wait(void)
{
    struct epoll_event event;
    return epoll_wait(epoll, &event, 1, seconds * 1000);
}
static int in_read(void)
{
    char byte;
    return read(0, &byte, 1);
}

static const struct { const char *name; int (*call)(void); } calls[] = {
    { "nanosleep", in_nanosleep }, { "clock_nanosleep", in_clock_nanosleep }, { "poll", in_poll },
    { "futex", in_futex }, { "select", in_select }, { "epoll_wait", in_epoll_wait }, { "read", in_read },
};

// What the program itself needs, and no more: nothing that a loader, an agent or a controller does.
static const int own_calls[] = {
    SYS_nanosleep, SYS_clock_nanosleep, SYS_poll, SYS_futex, SYS_select, SYS_pselect6, SYS_epoll_wait,
    SYS_epoll_pwait, SYS_read, SYS_write, SYS_rt_sigreturn, SYS_restart_syscall, SYS_exit_group,
};
enum { OWN = sizeof own_calls / sizeof *own_calls };

static const struct { const char *name; unsigned action; int broad; } filters[] = {
    { "kill", SECCOMP_RET_KILL_PROCESS, 0 },
    { "errno", SECCOMP_RET_ERRNO | EPERM, 0 },
    { "trap", SECCOMP_RET_TRAP, 0 },
    // As a service manager's list of calls that services need: all that exist, and death for others.
    { "broad", SECCOMP_RET_KILL_PROCESS, 1 },
};

#define ALLOW(number) \
    *next++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1); \
    *next++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

static int confine(unsigned action, int broad)
{
    struct sock_filter code[2 * OWN + 6], *next = code;
    *next++ = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    *next++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
    *next++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, action);
    *next++ = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    if (broad) {
        *next++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 470, 1, 0);
        *next++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    } else {
        for (int i = 0; i < OWN; i++) {
            ALLOW(own_calls[i]);
        }
    }
    *next++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, action);
    struct sock_fprog program = { .len = next - code, .filter = code };
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static volatile sig_atomic_t asked;

static void handler(int signal)
{
    (void)signal;
    asked = 1;
}

static void say(const char *text)
{
    if (write(1, text, strlen(text)) < 0)
        _exit(1);
}

static long long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

// The function that a thread is inside.
__attribute__((noipa)) int sleep_once(int (*call)(void))
{
    char line[100];
    long long end = now() + seconds * 1000000000LL;
    int result = call(), error = errno;
    if (asked && result == -1)
        snprintf(line, sizeof line, "a=%d %s\n", call_a(), error == EINTR ? "EINTR" : strerror(error));
    else
        snprintf(line, sizeof line, "a=%d %s %d %s\n", call_a(), now() < end ? "too early" : "returned", result,
            result < 0 ? strerror(error) : "-");
    asked = 0;
    say(line);
    return 1;
}

int main(int argc, char **argv)
{
    struct sigaction action = { .sa_handler = handler };
    struct epoll_event event = { .events = EPOLLIN };
    int (*call)(void) = NULL;
    for (unsigned i = 0; argc == 4 && i < sizeof calls / sizeof *calls; i++)
        if (!strcmp(argv[1], calls[i].name))
            call = calls[i].call;
    if (!call)
        return 2;
    seconds = atoi(argv[3]);
    sigaction(SIGUSR1, &action, NULL);
    epoll = epoll_create1(0);
    epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &event);
    // The clock's page and the loader's lazy work: before the filter.
    now();
    for (unsigned i = 0; i < sizeof filters / sizeof *filters; i++)
        if (!strcmp(argv[2], filters[i].name) && confine(filters[i].action, filters[i].broad))
            return 1;
    say("ready\n");
    while (sleep_once(call)) {
    }
    return 0;
}
