/* One thread that falls asleep and wakes all the time. */
#include <stdio.h>
#include <time.h>

int main(void) {
    puts("ready");
    fflush(stdout);
    for (;;) {
        struct timespec moment = {0, 1000};
        nanosleep(&moment, NULL);
        for (volatile int i = 0; i < 20000; i++) {}
    }
}
