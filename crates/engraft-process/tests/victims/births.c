/* Spins until it is told, by a word in its memory whose address it prints, to start threads, as many as
 * the word says, and then goes on spinning. They sleep, as the first thread does, which answers every line. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

static atomic_long wanted, spinning;

static void *sleeper(void *unused) {
    for (;;) pause();
    return unused;
}

static void *spinner(void *unused) {
    spinning = 1;
    for (;;) {
        for (long n = atomic_exchange(&wanted, 0); n > 0; n--) {
            pthread_t t;
            if (pthread_create(&t, NULL, sleeper, NULL)) return NULL;
        }
    }
    return unused;
}

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    pthread_t t;
    if (pthread_create(&t, NULL, spinner, NULL)) return 1;
    while (!spinning) usleep(100);
    printf("ready\n%lu\n", (unsigned long)&wanted);
    char line[64];
    while (fgets(line, sizeof line, stdin)) printf("goes on\n");
    return 0;
}
