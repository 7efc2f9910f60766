// A thread that keeps what word() returned, which is an address inside a patch if the patched one did.
//
// Commands, one a line:
//     word    what word() says
//     take    lets the thread call word() and keep what it returns: "taken"
//     drop    lets it say what it has kept, and forget it
//     hook    what the function says that word() has left behind, if it has
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <string.h>

const char *(*volatile hook)(void);

__attribute__((noipa)) const char *word(void)
{
    return "old";
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static enum { IDLE, TAKE, TAKEN, DROP } state;
static char said[100];

static void set(int next)
{
    state = next;
    pthread_cond_broadcast(&changed);
}

static void wait_for(int wanted)
{
    while ((int)state != wanted)
        pthread_cond_wait(&changed, &lock);
}

// Nothing of what was called before is left on the stack.
__attribute__((noipa)) static void scrub(void)
{
    char space[32768];
    explicit_bzero(space, sizeof space);
}

static void *keep(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&lock);
    for (;;) {
        wait_for(TAKE);
        const char *volatile kept = word();
        scrub();
        set(TAKEN);
        wait_for(DROP);
        snprintf(said, sizeof said, "%s", kept);
        kept = NULL;
        scrub();
        set(IDLE);
    }
    return NULL;
}

int main(void)
{
    char line[100];
    pthread_t thread;
    if (pthread_create(&thread, NULL, keep, NULL))
        return 1;
    pthread_setname_np(thread, "keeper");
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        if (strcmp(line, "word\n") == 0) {
            puts(word());
        } else if (strcmp(line, "take\n") == 0 || strcmp(line, "drop\n") == 0) {
            int take = line[0] == 't';
            pthread_mutex_lock(&lock);
            set(take ? TAKE : DROP);
            wait_for(take ? TAKEN : IDLE);
            pthread_mutex_unlock(&lock);
            puts(take ? "taken" : said);
        } else if (strcmp(line, "hook\n") == 0) {
            puts(hook ? hook() : "none");
        } else {
            puts("what?");
        }
        scrub();
    }
    return 0;
}
