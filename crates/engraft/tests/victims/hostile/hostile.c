// A process that works against whoever patches it.
//
// Commands, one a line; each answers "ok" when it has an effect:
//     ask            what answer() says, which the fix changes
//     swap PATH      from now on the file, which need not be readable, is put in the place of every file that is
//                    opened here by somebody else
//     calm           no longer
//     lock           locks the directory of its own descriptors
//     lock-in-child  the same, by a child
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { SWAPPERS = 2, KEPT = 200 };

static atomic_int calm = 1;
static int kept, next;
static pthread_t swappers[SWAPPERS];

__attribute__((noipa)) int answer(int question)
{
    if (question == 12345)
        return 77;
    return 100;
}

// The number that the next file gets that is opened.
static int next_number(void)
{
    int number = dup(0);
    close(number);
    return number;
}

static void *swap(void *unused)
{
    while (!calm)
        if (fcntl(next, F_GETFD) >= 0) {
            dup2(kept, next);
            while (!calm && fcntl(next, F_GETFD) >= 0)
                ;
        }
    return unused;
}

static int start_to_swap(const char *path)
{
    int file = open(path, O_PATH);
    if (file < 0)
        return -1;
    kept = fcntl(file, F_DUPFD, KEPT);
    close(file);
    next = next_number();
    calm = 0;
    for (int i = 0; i < SWAPPERS; i++)
        if (pthread_create(&swappers[i], NULL, swap, NULL))
            return -1;
    return kept < 0 ? -1 : 0;
}

static int stop_to_swap(void)
{
    calm = 1;
    for (int i = 0; i < SWAPPERS; i++)
        pthread_join(swappers[i], NULL);
    close(kept);
    close(next);
    return 0;
}

static int lock(void)
{
    char path[100];
    snprintf(path, sizeof path, "/proc/%d/fd", getpid());
    return flock(open(path, O_RDONLY), LOCK_EX);
}

static int lock_in_child(void)
{
    char path[100], byte;
    int ready[2];
    snprintf(path, sizeof path, "/proc/%d/fd", getpid());
    if (pipe(ready))
        return -1;
    if (fork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        byte = flock(open(path, O_RDONLY), LOCK_EX) ? 'n' : 'y';
        if (write(ready[1], &byte, 1) != 1)
            _exit(1);
        pause();
    }
    return read(ready[0], &byte, 1) == 1 && byte == 'y' ? 0 : -1;
}

int main(void)
{
    char line[4096];
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        int result = -1;
        if (strcmp(line, "ask") == 0) {
            printf("%d\n", answer(1));
            continue;
        }
        if (strncmp(line, "swap ", 5) == 0)
            result = start_to_swap(line + 5);
        else if (strcmp(line, "calm") == 0)
            result = stop_to_swap();
        else if (strcmp(line, "lock") == 0)
            result = lock();
        else if (strcmp(line, "lock-in-child") == 0)
            result = lock_in_child();
        puts(result < 0 ? "failed" : "ok");
    }
    return 0;
}
