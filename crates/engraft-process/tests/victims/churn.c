/* Creates and joins threads all the time, in as many creators as the argument says. `count`: goes on. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static atomic_ulong created;

static void *nothing(void *unused) {
    created++;
    return unused;
}

static void *creator(void *unused) {
    for (;;) {
        pthread_t t;
        if (pthread_create(&t, NULL, nothing, NULL)) exit(7);
        pthread_join(t, NULL);
    }
    return unused;
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = atoi(argv[1]); i > 0; i--) {
        pthread_t t;
        pthread_create(&t, NULL, creator, NULL);
    }
    while (created < 100) usleep(100);
    printf("ready\n");
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        unsigned long before = created;
        while (created < before + 100) usleep(100);
        printf("goes on\n");
    }
    return 0;
}
