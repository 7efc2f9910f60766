// How long does a busy thread stand still, and how late does a sleeping one wake? One thread calls work() and
// reads the clock over and over; one sleeps until the next millisecond of the clock, over and over; the others
// sleep in a system call for ever.
//
// usage: pause SLEEPERS. Commands, one a line:
//     window     "measuring"; measures until the next line comes, whatever it says, and answers
//                "longest_ns=N late_ns=N late_net_ns=N": the longest time between two readings of the
//                clock, without the time in it that the thread was ready to run and had no CPU; and how late the
//                timer's thread was at worst, all in all and without such time
//     version    1; 2 with the fix, 3 with the second one
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

// Shorter gaps are not looked at: no change of threads fits into them.
enum { INTERESTING_NS = 5000, READINGS_BETWEEN_POLLS = 1024, PERIOD_NS = 1000000 };

static volatile int sink;
// What the timer's thread has seen since a window began.
static atomic_llong worst_late, worst_late_net;
static atomic_uint ticks;

// What gets patched.
__attribute__((noipa)) int work(int n)
{
    sink += n;
    return 1;
}

static long long clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

// The second number of schedstat: time spent ready to run, waiting for a CPU.
static long long waited_ns(int schedstat)
{
    char text[100] = "";
    long long ran = 0, waited = 0;
    if (pread(schedstat, text, sizeof text - 1, 0) > 0)
        sscanf(text, "%lld %lld", &ran, &waited);
    return waited;
}

static void keep_worst(atomic_llong *worst, long long value)
{
    if (value > atomic_load(worst))
        atomic_store(worst, value);
}

static void *tick(void *unused)
{
    int schedstat = open("/proc/thread-self/schedstat", O_RDONLY);
    for (long long next = clock_ns() + PERIOD_NS;; next += PERIOD_NS) {
        struct timespec until = {next / 1000000000, next % 1000000000};
        long long waited = waited_ns(schedstat);
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
        long long now = clock_ns(), late = now - next;
        keep_worst(&worst_late, late);
        keep_worst(&worst_late_net, late - (waited_ns(schedstat) - waited));
        atomic_fetch_add(&ticks, 1);
        // What was missed is not made up for: that would count one delay several times.
        if (late > PERIOD_NS)
            next = now;
    }
    return unused;
}

// Until the timer's thread has slept once from beginning to end; a delay that it is in is over then.
static void wait_for_a_tick(void)
{
    unsigned before = atomic_load(&ticks);
    while (atomic_load(&ticks) - before < 2)
        usleep(100);
}

static int line_has_come(void)
{
    struct pollfd input = {.fd = 0, .events = POLLIN};
    return poll(&input, 1, 0) > 0;
}

static long long measure(int schedstat)
{
    long long longest = 0, waited = waited_ns(schedstat), last = clock_ns();
    for (unsigned n = 1; n % READINGS_BETWEEN_POLLS || !line_has_come(); n++) {
        work(1);
        long long now = clock_ns(), gap = now - last;
        last = now;
        if (gap < INTERESTING_NS)
            continue;
        long long waited_now = waited_ns(schedstat);
        if (gap - (waited_now - waited) > longest)
            longest = gap - (waited_now - waited);
        waited = waited_now;
        // Reading the file is no gap.
        last = clock_ns();
    }
    return longest;
}

static void *sleep_for_ever(void *unused)
{
    for (;;)
        pause();
    return unused;
}

int main(int argc, char **argv)
{
    char line[100];
    int schedstat = open("/proc/thread-self/schedstat", O_RDONLY);
    pthread_t thread;
    if (pthread_create(&thread, NULL, tick, NULL))
        return 1;
    for (int i = argc == 2 ? atoi(argv[1]) : 0; i > 0; i--) {
        if (pthread_create(&thread, NULL, sleep_for_ever, NULL))
            return 1;
    }
    // poll() and the reading of lines must see the same input.
    setvbuf(stdin, NULL, _IONBF, 0);
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        if (strcmp(line, "window\n") == 0) {
            wait_for_a_tick();
            atomic_store(&worst_late, 0);
            atomic_store(&worst_late_net, 0);
            puts("measuring");
            long long longest = measure(schedstat);
            if (!fgets(line, sizeof line, stdin))
                break;
            wait_for_a_tick();
            printf("longest_ns=%lld late_ns=%lld late_net_ns=%lld\n", longest,
                   atomic_load(&worst_late), atomic_load(&worst_late_net));
        } else if (strcmp(line, "version\n") == 0) {
            printf("%d\n", work(0));
        } else {
            puts("what?");
        }
    }
    return 0;
}
