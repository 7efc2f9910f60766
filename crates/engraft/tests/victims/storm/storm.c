// Eight threads run chains of calls over and over, and each looks whether a chain saw one version only. One
// more thread runs a chain when it is told to, and stays inside until it may leave.
//
// Commands, one a line:
//     allow V...   from now on these versions may run (1 to 3); at the beginning that is 1
//     round        lets each of the eight run ten chains more, and counts these by their version; mixed ones
//                  are none's: "1=80 2=0 3=0 mixed=0"
//     violations   since the beginning: chains of two versions, and chains of a version that was not
//                  allowed at any moment of their lives
//     counts       chains and calls since the beginning
//     stay         lets the ninth thread go inside; answers when it is there
//     leave        lets it go on; answers with its chain's version, 0 for a mixed one
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "chain.h"

enum { THREADS = 8, CHAINS = 10, VERSIONS = 3 };

function *volatile by_pointer[5] = {f1, f2, f3, f4, f5};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t counted = PTHREAD_COND_INITIALIZER;
// The round of each chain, and how many threads it still waits for; by_version[0] is for mixed chains.
static long round_number, by_version[VERSIONS + 1];
static int waiting_for;
static long chains, calls, mixed, stale;
// Each `allow` begins an epoch; `allowed_in` says which was the last one that a version had a part of.
static long epoch, allowed_in[VERSIONS + 1];
static int allowed[VERSIONS + 1] = {0, 1};
static int commands[2], reports[2];

NOIPA void record(struct chain *chain, int version)
{
    if (chain->calls == MOST_CALLS)
        abort();
    chain->versions[chain->calls++] = version;
}

NOIPA void nap(struct chain *chain)
{
    char byte = 'i';
    if (chain->stays) {
        // Only once a chain.
        chain->stays = 0;
        if (write(reports[1], &byte, 1) != 1 || read(commands[0], &byte, 1) != 1)
            abort();
    } else if (chain->nap) {
        usleep(chain->nap);
    }
}

// The version that all of it ran; 0 if there is more than one.
static int version_of(const struct chain *chain)
{
    for (int i = 1; i < chain->calls; i++)
        if (chain->versions[i] != chain->versions[0])
            return 0;
    return chain->versions[0];
}

// Runs a chain and returns its version, 0 for a mixed one.
static int run(struct chain *chain)
{
    pthread_mutex_lock(&lock);
    long began = epoch;
    pthread_mutex_unlock(&lock);
    f1(chain);
    int version = version_of(chain);
    pthread_mutex_lock(&lock);
    chains++;
    calls += chain->calls;
    if (version == 0)
        mixed++;
    else if (!allowed[version] && allowed_in[version] <= began)
        stale++;
    pthread_mutex_unlock(&lock);
    return version;
}

static void *work(void *argument)
{
    long number = (long)argument, last_round = 0;
    for (;;) {
        long mine[VERSIONS + 1] = {0};
        pthread_mutex_lock(&lock);
        long my_round = round_number;
        pthread_mutex_unlock(&lock);
        for (int i = 0; i < CHAINS; i++, number++) {
            // All depths in each round, and the deepest ones in several shapes.
            struct chain chain = {.depth = 1 + i % 5, .repeats = 1 + number % 3};
            chain.again = number % 4 == 0;
            chain.nap = number % 7 == 0 ? 50 : 0;
            mine[run(&chain)]++;
        }
        pthread_mutex_lock(&lock);
        if (my_round == round_number && my_round != last_round) {
            last_round = my_round;
            for (int i = 0; i <= VERSIONS; i++)
                by_version[i] += mine[i];
            if (--waiting_for == 0)
                pthread_cond_signal(&counted);
        }
        pthread_mutex_unlock(&lock);
        // Leaves some of the machine to the tool under test, and moments when no thread is inside.
        usleep(2000);
    }
    return NULL;
}

// The ninth thread.
static void *stay(void *unused)
{
    char byte;
    while (read(commands[0], &byte, 1) == 1) {
        struct chain chain = {.depth = 5, .repeats = 2, .again = 1, .stays = 1};
        byte = '0' + run(&chain);
        if (write(reports[1], &byte, 1) != 1)
            break;
    }
    return unused;
}

// Sends a command to the ninth thread and returns what it reports: 'i' inside, a digit outside.
static int tell(void)
{
    char byte = 'c';
    return write(commands[1], &byte, 1) == 1 && read(reports[0], &byte, 1) == 1 ? byte : '?';
}

static void one_round(void)
{
    pthread_mutex_lock(&lock);
    round_number++;
    memset(by_version, 0, sizeof by_version);
    waiting_for = THREADS;
    while (waiting_for > 0)
        pthread_cond_wait(&counted, &lock);
    printf("1=%ld 2=%ld 3=%ld mixed=%ld\n", by_version[1], by_version[2], by_version[3], by_version[0]);
    pthread_mutex_unlock(&lock);
}

static void allow(const char *versions)
{
    pthread_mutex_lock(&lock);
    epoch++;
    for (int i = 1; i <= VERSIONS; i++) {
        int now = strchr(versions, '0' + i) != NULL;
        if (allowed[i] || now)
            allowed_in[i] = epoch;
        allowed[i] = now;
    }
    pthread_mutex_unlock(&lock);
    puts("ok");
}

static int start(void *body(void *), long argument)
{
    pthread_t thread;
    return pthread_create(&thread, NULL, body, (void *)argument);
}

int main(void)
{
    char line[100];
    if (pipe(commands) || pipe(reports) || start(stay, 0))
        return 1;
    for (long i = 0; i < THREADS; i++)
        if (start(work, i))
            return 1;
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        if (strncmp(line, "allow ", 6) == 0) {
            allow(line + 6);
        } else if (strcmp(line, "round\n") == 0) {
            one_round();
        } else if (strcmp(line, "stay\n") == 0) {
            puts(tell() == 'i' ? "inside" : "what?");
        } else if (strcmp(line, "leave\n") == 0) {
            printf("%c\n", tell());
        } else if (strcmp(line, "violations\n") == 0 || strcmp(line, "counts\n") == 0) {
            pthread_mutex_lock(&lock);
            if (*line == 'v')
                printf("mixed=%ld stale=%ld\n", mixed, stale);
            else
                printf("chains=%ld calls=%ld\n", chains, calls);
            pthread_mutex_unlock(&lock);
        } else {
            puts("what?");
        }
    }
    return 0;
}
