// Threads that call price() over and over and check each answer.
//
// usage: workers THREADS. Commands, one a line:
//     price N    what price() says
//     round      lets each thread call price() a hundred times more, and counts the answers by the
//                code that gave them; wrong answers are counted from the start on
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NOIPA __attribute__((noipa))

enum { MOST_THREADS = 1000, CALLS = 100 };

int apple = 3;

// The function with the bug: an apple costs 3.
NOIPA void price(int n, char *text, size_t size)
{
    snprintf(text, size, "%d apples cost %d", n, n * apple);
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t counted = PTHREAD_COND_INITIALIZER;
static long epoch, old_answers, new_answers, wrong_answers;
static int threads, waiting_for;

static void call(int n, long *old, long *new, long *wrong)
{
    char text[64], expected_old[64], expected_new[64];
    snprintf(expected_old, sizeof expected_old, "%d apples cost %d", n, n * 3);
    snprintf(expected_new, sizeof expected_new, "%d apples at 2 each cost %d", n, n * 2);
    price(n, text, sizeof text);
    if (strcmp(text, expected_old) == 0)
        ++*old;
    else if (strcmp(text, expected_new) == 0)
        ++*new;
    else
        ++*wrong;
}

static void *work(void *argument)
{
    int first = (int)(long)argument;
    long last_epoch = 0;
    for (;;) {
        long old = 0, new = 0, wrong = 0;
        pthread_mutex_lock(&lock);
        long my_epoch = epoch;
        pthread_mutex_unlock(&lock);
        for (int i = 0; i < CALLS; i++)
            call(first + i, &old, &new, &wrong);
        pthread_mutex_lock(&lock);
        wrong_answers += wrong;
        if (my_epoch == epoch && my_epoch != last_epoch) {
            last_epoch = my_epoch;
            old_answers += old;
            new_answers += new;
            if (--waiting_for == 0)
                pthread_cond_signal(&counted);
        }
        pthread_mutex_unlock(&lock);
        // Leaves some of the machine to the tool under test.
        usleep(2000);
    }
    return NULL;
}

static void round_of_calls(void)
{
    pthread_mutex_lock(&lock);
    epoch++;
    old_answers = new_answers = 0;
    waiting_for = threads;
    while (waiting_for > 0)
        pthread_cond_wait(&counted, &lock);
    printf("old=%ld new=%ld wrong=%ld\n", old_answers, new_answers, wrong_answers);
    pthread_mutex_unlock(&lock);
}

int main(int argc, char **argv)
{
    char line[100], text[64];
    int n;
    threads = argc == 2 ? atoi(argv[1]) : 0;
    if (threads > MOST_THREADS)
        return 2;
    for (long i = 0; i < threads; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, work, (void *)i))
            return 1;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "price %d", &n) == 1) {
            price(n, text, sizeof text);
            puts(text);
        } else if (strcmp(line, "round\n") == 0) {
            round_of_calls();
        } else {
            puts("what?");
        }
    }
    return 0;
}
