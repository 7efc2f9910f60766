// A program with a() that opens and closes a library with b(). A fix changes both; the two are
// halves of one thing and must always be of the same patch. Each returns 100 plus its patch's number.
//
// Commands, one a line:
//     open FILE    "opened", or "refused: " and the loader's words
//     close        closes it: "closed", and "still there" if the loader keeps it
//     ask          "a=N b=N", with "-" for b while the library is not open
//     seen         what b() said to the library's constructor
//     storm FILE   starts a thread that opens FILE, asks and closes it over and over
//     apart FILE   the same with dlmopen, in a namespace of its own each time
//     rounds N     waits for N more rounds of that thread, and says what went wrong so far
//     calm         ends the thread
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

__attribute__((noipa)) int a(void)
{
    return 100;
}

// A call that the compiler cannot look through.
static int (*volatile call_a)(void) = a;

static void *library;
static int (*call_b)(void);

static void open_library(const char *file)
{
    library = dlopen(file, RTLD_NOW);
    if (!library) {
        printf("refused: %s\n", dlerror());
        return;
    }
    call_b = (int (*)(void))dlsym(library, "b");
    puts("opened");
}

static void close_library(void)
{
    void *symbol = (void *)call_b;
    Dl_info info;
    dlclose(library);
    library = NULL;
    puts(dladdr(symbol, &info) ? "still there" : "closed");
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static pthread_t thread;
static char storm_file[256];
static long rounds, mixed, refused;
static int calm, apart;

// One thread switches to a patch as a whole, so if a() is the same before and after, then b()
// between them must be the same too, and so must the constructor's.
static void one_round(void)
{
    int before = call_a();
    void *opened = apart ? dlmopen(LM_ID_NEWLM, storm_file, RTLD_NOW) : dlopen(storm_file, RTLD_NOW);
    if (!opened) {
        if (refused++ == 0)
            fprintf(stderr, "refused: %s\n", dlerror());
        return;
    }
    int (*b)(void) = (int (*)(void))dlsym(opened, "b");
    const int *seen = dlsym(opened, "seen_by_constructor");
    int middle = b(), constructor = *seen;
    if (before == call_a() && (middle != before || constructor != before))
        mixed++;
    dlclose(opened);
}

static void *storm(void *unused)
{
    pthread_mutex_lock(&lock);
    while (!calm) {
        pthread_mutex_unlock(&lock);
        one_round();
        pthread_mutex_lock(&lock);
        rounds++;
        pthread_cond_broadcast(&changed);
    }
    pthread_mutex_unlock(&lock);
    return unused;
}

static void start_storm(int in_namespaces)
{
    apart = in_namespaces;
    puts(pthread_create(&thread, NULL, storm, NULL) ? "no thread" : "storm");
}

static void wait_for_rounds(long more)
{
    pthread_mutex_lock(&lock);
    for (long end = rounds + more; rounds < end;)
        pthread_cond_wait(&changed, &lock);
    printf("mixed=%ld refused=%ld\n", mixed, refused);
    pthread_mutex_unlock(&lock);
}

static void end_storm(void)
{
    pthread_mutex_lock(&lock);
    calm = 1;
    pthread_mutex_unlock(&lock);
    pthread_join(thread, NULL);
    calm = 0;
    puts("calm");
}

int main(void)
{
    char line[300], file[256];
    long more;
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "open %255s", file) == 1) {
            open_library(file);
        } else if (strcmp(line, "close\n") == 0 && library) {
            close_library();
        } else if (strcmp(line, "ask\n") == 0 && library) {
            printf("a=%d b=%d\n", call_a(), call_b());
        } else if (strcmp(line, "ask\n") == 0) {
            printf("a=%d b=-\n", call_a());
        } else if (strcmp(line, "seen\n") == 0 && library) {
            printf("b=%d\n", *(const int *)dlsym(library, "seen_by_constructor"));
        } else if (sscanf(line, "storm %255s", storm_file) == 1) {
            start_storm(0);
        } else if (sscanf(line, "apart %255s", storm_file) == 1) {
            start_storm(1);
        } else if (sscanf(line, "rounds %ld", &more) == 1) {
            wait_for_rounds(more);
        } else if (strcmp(line, "calm\n") == 0) {
            end_storm();
        } else {
            puts("what?");
        }
    }
    return 0;
}
