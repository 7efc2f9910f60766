/* Runs itself again and again, each time from a thread that is not the first one and that has been busy for a while,
 * while another one sleeps. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

static char **arguments;

static void *run_again(void *unused) {
    for (volatile int n = 0; n < 300000; n++) {}
    execv("/proc/self/exe", arguments);
    return unused;
}

static void *sleep_on(void *unused) {
    for (;;) pause();
    return unused;
}

int main(int argc, char **argv) {
    pthread_t thread;
    (void)argc;
    arguments = argv;
    if (!argv[1][0]) {
        /* The first time only: then it is known that it goes on for ever. */
        puts("ready");
        fflush(stdout);
        argv[1] = "again";
    }
    pthread_create(&thread, NULL, sleep_on, NULL);
    pthread_create(&thread, NULL, run_again, NULL);
    for (;;) pause();
}
