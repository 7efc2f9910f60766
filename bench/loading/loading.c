// What does it cost to load and unload a library?
//
// usage: loading LIBRARY. Commands, one a line:
//     time       "ns=N": one dlopen() and dlclose() of it; the median of many
//     version    1, and 2 with the fix
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ROUNDS = 1001 };

// What gets patched: nothing of the library.
__attribute__((noipa)) int version(void)
{
    return 1;
}

static long long clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static int by_size(const void *a, const void *b)
{
    long long one = *(const long long *)a, other = *(const long long *)b;
    return (one > other) - (one < other);
}

static long long time_rounds(const char *path)
{
    static long long times[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        long long start = clock_ns();
        void *library = dlopen(path, RTLD_NOW);
        if (!library || dlclose(library))
            exit(1);
        times[i] = clock_ns() - start;
    }
    qsort(times, ROUNDS, sizeof *times, by_size);
    return times[ROUNDS / 2];
}

int main(int argc, char **argv)
{
    char line[100];
    if (argc != 2)
        return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        if (strcmp(line, "time\n") == 0)
            printf("ns=%lld\n", time_rounds(argv[1]));
        else if (strcmp(line, "version\n") == 0)
            printf("%d\n", version());
        else
            puts("what?");
    }
    return 0;
}
