/* Counts real-time signals, which are queued one by one; `count N` waits until N have come and says how many
 * there were, with the sum of their values. It has threads that compute, so signals find them anywhere. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static atomic_ulong seen, sum;

static void handler(int signal, siginfo_t *info, void *context) {
    sum += info->si_value.sival_int;
    seen++;
}

static void *spin(void *unused) {
    for (volatile unsigned long i = 0;; i++) {}
    return unused;
}

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    struct sigaction a = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(SIGRTMIN, &a, NULL);
    pthread_t t;
    for (int i = 0; i < 2; i++) pthread_create(&t, NULL, spin, NULL);
    printf("ready\n");
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        unsigned long n = atol(line);
        while (seen < n) usleep(100);
        printf("%lu %lu\n", (unsigned long)seen, (unsigned long)sum);
    }
    return 0;
}
