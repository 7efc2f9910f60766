/* Sleeps in the system call that is named by the first argument, for as long as the second says (ms),
 * in a thread of its own, and says how the call ended and whether it was too early. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ipc.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static const char *call;
static long milliseconds;
static int pipes[2], sockets[2];
static atomic_int tid, word;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static long sleep_in_call(void) {
    struct timespec t = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    struct timeval v = {milliseconds / 1000, milliseconds % 1000 * 1000};
    char byte;
    if (!strcmp(call, "nanosleep")) return syscall(SYS_nanosleep, &t, NULL);
    if (!strcmp(call, "clock_nanosleep")) return syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &t, NULL);
    if (!strcmp(call, "poll")) return syscall(SYS_poll, NULL, 0, milliseconds);
    if (!strcmp(call, "ppoll")) { sigset_t s; sigemptyset(&s); return syscall(SYS_ppoll, NULL, 0, &t, &s, 8); }
    if (!strcmp(call, "select")) return syscall(SYS_select, 0, NULL, NULL, NULL, &v);
    if (!strcmp(call, "futex")) return syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &t, NULL, 0);
    if (!strcmp(call, "epoll_wait")) {
        struct epoll_event e;
        int fd = epoll_create1(0);
        return syscall(SYS_epoll_wait, fd, &e, 1, milliseconds);
    }
    if (!strcmp(call, "epoll_pwait")) {
        struct epoll_event e;
        sigset_t s;
        sigemptyset(&s);
        int fd = epoll_create1(0);
        return syscall(SYS_epoll_pwait, fd, &e, 1, milliseconds, &s, 8);
    }
    if (!strcmp(call, "semtimedop")) {
        int id = semget(IPC_PRIVATE, 1, 0600);
        struct sembuf op = {0, -1, 0};
        long result = syscall(SYS_semtimedop, id, &op, 1, &t);
        int error = errno;
        semctl(id, 0, IPC_RMID);
        errno = error;
        return result;
    }
    if (!strcmp(call, "rt_sigtimedwait")) {
        sigset_t s;
        sigemptyset(&s);
        sigaddset(&s, SIGUSR2);
        return syscall(SYS_rt_sigtimedwait, &s, NULL, &t, 8);
    }
    if (!strcmp(call, "recvfrom")) {
        setsockopt(sockets[0], SOL_SOCKET, SO_RCVTIMEO, &v, sizeof v);
        return syscall(SYS_recvfrom, sockets[0], &byte, 1, 0, NULL, NULL);
    }
    if (!strcmp(call, "read_socket")) {
        setsockopt(sockets[0], SOL_SOCKET, SO_RCVTIMEO, &v, sizeof v);
        return syscall(SYS_read, sockets[0], &byte, 1);
    }
    if (!strcmp(call, "accept")) {
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        bind(fd, (void *)&a, sizeof a.sun_family);
        listen(fd, 1);
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &v, sizeof v);
        return syscall(SYS_accept, fd, NULL, NULL);
    }
    if (!strcmp(call, "read")) return syscall(SYS_read, pipes[0], &byte, 1);
    exit(3);
}

static void handler(int signal) {}

static void *thread(void *unused) {
    tid = syscall(SYS_gettid);
    double start = now();
    long result = sleep_in_call();
    int error = errno;
    double slept = now() - start;
    const char *name = result >= 0 ? "0" : error == EINTR ? "EINTR"
        : error == EAGAIN || error == ETIMEDOUT ? "timeout" : strerror(error);
    printf("%s %s\n", name, !strcmp(call, "read") || slept >= milliseconds - 1 ? "in time" : "early");
    return unused;
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    call = argv[1];
    milliseconds = atol(argv[2]);
    if (pipe(pipes) || socketpair(AF_UNIX, SOCK_STREAM, 0, sockets)) return 1;
    sigset_t s;
    sigemptyset(&s);
    sigaddset(&s, SIGUSR2);
    sigprocmask(SIG_BLOCK, &s, NULL);
    /* No SA_RESTART: the program wants to see this signal. */
    struct sigaction a = {.sa_handler = handler};
    sigaction(SIGUSR1, &a, NULL);
    pthread_t t;
    pthread_create(&t, NULL, thread, NULL);
    while (!tid) usleep(100);
    printf("ready\n%d\n", tid);
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        if (!strcmp(line, "write\n") && write(pipes[1], "x", 1) == 1) continue;
        if (!strcmp(line, "join\n")) { pthread_join(t, NULL); printf("joined\n"); }
    }
    return 0;
}
