// Threads that open, ask and close two libraries in turns, over and over: one is mapped where the other one was.
//
//     turns THREADS PAUSE FIRST SECOND    PAUSE in microseconds, between an opening and a closing
//
// Commands, one a line:
//     rounds N     waits for N more rounds, and says how many loads have failed so far: "failed=0"
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static long rounds, failed;
static int pause_length;
static char **files;

static void one_round(const char *file)
{
    void *library = dlopen(file, RTLD_NOW);
    if (library) {
        ((int (*)(void))dlsym(library, "f"))();
        usleep(pause_length);
        dlclose(library);
    }
    pthread_mutex_lock(&lock);
    rounds++;
    failed += !library;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    usleep(pause_length);
}

static void *turns(void *unused)
{
    for (int turn = 0;; turn = !turn)
        one_round(files[turn]);
    return unused;
}

int main(int count, char **arguments)
{
    char line[100];
    long more;
    if (count != 5)
        return 2;
    files = arguments + 3;
    pause_length = atoi(arguments[2]);
    for (int left = atoi(arguments[1]); left > 0; left--) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, turns, NULL))
            return 1;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "rounds %ld", &more) != 1) {
            puts("what?");
            continue;
        }
        pthread_mutex_lock(&lock);
        for (long end = rounds + more; rounds < end;)
            pthread_cond_wait(&changed, &lock);
        printf("failed=%ld\n", failed);
        pthread_mutex_unlock(&lock);
    }
    return 0;
}
