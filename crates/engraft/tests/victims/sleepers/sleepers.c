// One thread asleep in each kind of system call. None of them should return before it is woken, and none
// with EINTR but for the program's own signals.
//
// Commands, one a line:
//     ask        "a=N"
//     early      how many calls have returned, and with what: "none", or "NAME:ERROR" for each
//     signal     sends each thread a signal without SA_RESTART and waits until its call has ended:
//                "all EINTR", or the others as above
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <time.h>
#include <unistd.h>

__attribute__((noipa)) int a(void)
{
    return 100;
}

// A call that the compiler cannot look through.
static int (*volatile call_a)(void) = a;

enum { LONG = 100000 };

static int silent_pipe[2], silent_sockets[2], timed_sockets[2], listener, semaphores, epoll, queue, ring;
static int word;
static sigset_t none, usr2;
static const struct timespec long_time = { LONG, 0 };

static int in_nanosleep(void) { return nanosleep(&long_time, NULL); }
static int in_clock_nanosleep(void)
{
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += LONG;
    errno = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &end, NULL);
    return errno ? -1 : 0;
}
static int in_poll(void)
{
    struct pollfd one = { silent_pipe[0], POLLIN, 0 };
    return poll(&one, 1, LONG * 1000);
}
static int in_ppoll(void)
{
    struct pollfd one = { silent_pipe[0], POLLIN, 0 };
    return ppoll(&one, 1, &long_time, &none);
}
static int in_select(void)
{
    fd_set set;
    struct timeval limit = { LONG, 0 };
    FD_ZERO(&set);
    FD_SET(silent_pipe[0], &set);
    return select(silent_pipe[0] + 1, &set, NULL, NULL, &limit);
}
static int in_pselect(void)
{
    fd_set set;
    FD_ZERO(&set);
    FD_SET(silent_pipe[0], &set);
    return pselect(silent_pipe[0] + 1, &set, NULL, NULL, NULL, &none);
}
static int in_epoll_wait(void)
{
    struct epoll_event event;
    return epoll_wait(epoll, &event, 1, LONG * 1000);
}
static int in_epoll_pwait(void)
{
    struct epoll_event event;
    return epoll_pwait(epoll, &event, 1, -1, &none);
}
static int in_futex(void) { return syscall(SYS_futex, &word, FUTEX_WAIT, 0, NULL, NULL, 0); }
static int in_futex_timed(void) { return syscall(SYS_futex, &word, FUTEX_WAIT, 0, &long_time, NULL, 0); }
static int in_read(void)
{
    char byte;
    return read(silent_pipe[0], &byte, 1);
}
static int in_accept(void) { return accept(listener, NULL, NULL); }
static int in_recv(void)
{
    char byte;
    return recv(silent_sockets[0], &byte, 1, 0);
}
static int in_recv_timed(void)
{
    char byte;
    return recv(timed_sockets[0], &byte, 1, 0);
}
static int in_semop(void)
{
    struct sembuf take = { 0, -1, 0 };
    return semop(semaphores, &take, 1);
}
static int in_semtimedop(void)
{
    struct sembuf take = { 0, -1, 0 };
    return semtimedop(semaphores, &take, 1, &long_time);
}
static int in_msgrcv(void)
{
    struct { long type; char text[8]; } message;
    return msgrcv(queue, &message, sizeof message.text, 0, 0);
}
static int in_sigtimedwait(void) { return sigtimedwait(&usr2, NULL, &long_time); }
static int in_sigwaitinfo(void) { return sigwaitinfo(&usr2, NULL); }
static int in_sigsuspend(void) { return sigsuspend(&none); }
static int in_pause(void) { return pause(); }
static int in_waitpid(void) { return waitpid(-1, NULL, 0); }
static int in_io_uring(void)
{
    return syscall(SYS_io_uring_enter, ring, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0);
}

static struct sleeper {
    const char *name;
    int (*call)(void);
    int number; // of the system call; with nothing that answers to it the kind is left out
    pthread_t thread;
    volatile pid_t tid;
    volatile int result, error, done;
} sleepers[] = {
#define SLEEPER(name, number) { #name, in_##name, number, 0, 0, 0, 0, 0 }
    SLEEPER(nanosleep, SYS_clock_nanosleep), SLEEPER(clock_nanosleep, SYS_clock_nanosleep),
    SLEEPER(poll, SYS_poll), SLEEPER(ppoll, SYS_ppoll), SLEEPER(select, SYS_pselect6),
    SLEEPER(pselect, SYS_pselect6), SLEEPER(epoll_wait, SYS_epoll_wait),
    SLEEPER(epoll_pwait, SYS_epoll_pwait), SLEEPER(futex, SYS_futex), SLEEPER(futex_timed, SYS_futex),
    SLEEPER(read, SYS_read), SLEEPER(accept, SYS_accept), SLEEPER(recv, SYS_recvfrom),
    SLEEPER(recv_timed, SYS_recvfrom), SLEEPER(semop, SYS_semtimedop),
    SLEEPER(semtimedop, SYS_semtimedop), SLEEPER(msgrcv, SYS_msgrcv),
    SLEEPER(sigtimedwait, SYS_rt_sigtimedwait), SLEEPER(sigwaitinfo, SYS_rt_sigtimedwait),
    SLEEPER(sigsuspend, SYS_rt_sigsuspend), SLEEPER(pause, SYS_pause), SLEEPER(waitpid, SYS_wait4),
    SLEEPER(io_uring, SYS_io_uring_enter),
};

enum { SLEEPERS = sizeof sleepers / sizeof *sleepers };

static void *run(void *argument)
{
    struct sleeper *sleeper = argument;
    sleeper->tid = syscall(SYS_gettid);
    sleeper->result = sleeper->call();
    sleeper->error = errno;
    sleeper->done = 1;
    return NULL;
}

// Whether the thread sleeps in its system call (or an older number of it, or the one that the kernel makes of
// it after a stop).
static int asleep(const struct sleeper *sleeper)
{
    char path[64], text[256] = "";
    snprintf(path, sizeof path, "/proc/self/task/%d/syscall", (int)sleeper->tid);
    FILE *file = fopen(path, "r");
    if (!file)
        return 0;
    char *line = fgets(text, sizeof text, file);
    fclose(file);
    int number = line && text[0] != 'r' ? atoi(text) : -1;
    return number == sleeper->number || number == SYS_restart_syscall
        || (number == SYS_nanosleep && sleeper->number == SYS_clock_nanosleep)
        || (number == SYS_select && sleeper->number == SYS_pselect6)
        || (number == SYS_semop && sleeper->number == SYS_semtimedop);
}

static void await(int (*is)(const struct sleeper *))
{
    for (int i = 0; i < SLEEPERS; i++)
        while (sleepers[i].call && !is(&sleepers[i]))
            sched_yield();
}

static int has_ended(const struct sleeper *sleeper) { return sleeper->done; }

static void report(const char *otherwise, int expected)
{
    int any = 0;
    for (int i = 0; i < SLEEPERS; i++) {
        struct sleeper *sleeper = &sleepers[i];
        if (!sleeper->call || !sleeper->done || (sleeper->result == -1 && sleeper->error == expected))
            continue;
        printf("%s%s:%s", any ? " " : "", sleeper->name, sleeper->result < 0 ? strerror(sleeper->error) : "returned");
        any = 1;
    }
    puts(any ? "" : otherwise);
}

static void handler(int signal) { (void)signal; }

static int prepare(void)
{
    struct sigaction action = { .sa_handler = handler };
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    struct timeval limit = { LONG, 0 };
    struct io_uring_params parameters = { 0 };
    int never[2];
    // Blocked everywhere, so that only the waits for it see it.
    sigemptyset(&none);
    sigemptyset(&usr2);
    sigaddset(&usr2, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &usr2, NULL);
    sigaction(SIGUSR1, &action, NULL);
    listener = socket(AF_UNIX, SOCK_STREAM, 0);
    epoll = epoll_create1(0);
    semaphores = semget(IPC_PRIVATE, 1, 0600);
    queue = msgget(IPC_PRIVATE, 0600);
    ring = syscall(SYS_io_uring_setup, 4, &parameters);
    for (int i = 0; i < SLEEPERS; i++)
        if (sleepers[i].call == in_io_uring && ring < 0)
            sleepers[i].call = NULL;
    if (pipe(never))
        return 1;
    // A child that lives as long as we do.
    if (fork() == 0) {
        char byte;
        close(never[1]);
        _exit(read(never[0], &byte, 1) != 0);
    }
    // With an address of no name the kernel chooses one.
    return pipe(silent_pipe) || socketpair(AF_UNIX, SOCK_STREAM, 0, silent_sockets)
        || socketpair(AF_UNIX, SOCK_STREAM, 0, timed_sockets)
        || setsockopt(timed_sockets[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit)
        || bind(listener, (struct sockaddr *)&address, sizeof(sa_family_t)) || listen(listener, 1)
        || semaphores < 0 || queue < 0;
}

int main(void)
{
    char line[100];
    if (prepare())
        return 1;
    for (int i = 0; i < SLEEPERS; i++)
        if (sleepers[i].call && pthread_create(&sleepers[i].thread, NULL, run, &sleepers[i]))
            return 1;
    await(asleep);
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts(ring < 0 ? "ready without io_uring" : "ready");
    while (fgets(line, sizeof line, stdin)) {
        if (strcmp(line, "ask\n") == 0) {
            printf("a=%d\n", call_a());
        } else if (strcmp(line, "early\n") == 0) {
            report("none", -1);
        } else if (strcmp(line, "signal\n") == 0) {
            await(asleep);
            for (int i = 0; i < SLEEPERS; i++)
                if (sleepers[i].call)
                    pthread_kill(sleepers[i].thread, SIGUSR1);
            await(has_ended);
            report("all EINTR", EINTR);
        } else {
            puts("what?");
        }
    }
    semctl(semaphores, 0, IPC_RMID);
    msgctl(queue, IPC_RMID, NULL);
    return 0;
}
