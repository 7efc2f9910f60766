/* How long does a thread stand still? The first thread measures, the others sleep in a system call.
 *
 * Arguments: `busy` or `timer`, sleepers. `window` is answered by `measuring`; until the next line comes,
 * whatever it says, the longest gap between two readings of the clock is looked for (busy), or how late
 * a sleep of 1 ms ended at worst (timer), both without the time in it that the thread was ready to run and
 * had no processor. That is the answer, in ns. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

/* Shorter gaps are not looked at: no change of threads fits into them. */
enum { INTERESTING_NS = 5000, READINGS_BETWEEN_POLLS = 1024, PERIOD_NS = 1000000 };

static int schedstat;

static long long clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* The second number of schedstat: time spent ready to run, waiting for a processor. */
static long long waited_ns(void) {
    char text[100] = "";
    long long ran = 0, waited = 0;
    if (pread(schedstat, text, sizeof text - 1, 0) > 0) sscanf(text, "%lld %lld", &ran, &waited);
    return waited;
}

static int line_has_come(void) {
    struct pollfd input = {.fd = 0, .events = POLLIN};
    return poll(&input, 1, 0) > 0;
}

static long long longest_gap(void) {
    long long longest = 0, waited = waited_ns(), last = clock_ns();
    for (unsigned n = 1; n % READINGS_BETWEEN_POLLS || !line_has_come(); n++) {
        long long now = clock_ns(), gap = now - last;
        last = now;
        if (gap < INTERESTING_NS) continue;
        long long waited_now = waited_ns();
        gap -= waited_now - waited;
        if (gap > longest) longest = gap;
        waited = waited_now;
        /* Reading the file is no gap. */
        last = clock_ns();
    }
    return longest;
}

static long long worst_delay(void) {
    long long worst = 0;
    while (!line_has_come()) {
        long long due = clock_ns() + PERIOD_NS, waited = waited_ns();
        struct timespec until = {due / 1000000000, due % 1000000000};
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL));
        long long late = clock_ns() - due;
        late -= waited_ns() - waited;
        if (late > worst) worst = late;
    }
    return worst;
}

static void *sleep_for_ever(void *unused) {
    for (;;) pause();
    return unused;
}

int main(int argc, char **argv) {
    char line[100];
    int busy = !strcmp(argv[1], "busy");
    schedstat = open("/proc/thread-self/schedstat", O_RDONLY);
    prctl(PR_SET_TIMERSLACK, 1);
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 1 << 16);
    for (int i = atoi(argv[2]); i > 0; i--) {
        pthread_t thread;
        if (pthread_create(&thread, &small, sleep_for_ever, NULL)) return 1;
    }
    /* poll() and the reading of lines must see the same input. */
    setvbuf(stdin, NULL, _IONBF, 0);
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        puts("measuring");
        long long longest = busy ? longest_gap() : worst_delay();
        if (!fgets(line, sizeof line, stdin)) break;
        printf("%lld\n", longest);
    }
    return 0;
}
