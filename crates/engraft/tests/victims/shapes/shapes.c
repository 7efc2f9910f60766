// A thread can be inside of park(), and calls functions of all shapes from there; another one calls them all the
// time. An answer that is neither the old one nor the new one is reported with its function's number.
//
// Commands, one a line:
//     all          calls each function: "old", "new", or the answers that are neither, or a mixture
//     park         sends the thread into park(): "inside"
//     all inside   the same as "all", by that thread where it is
//     leave        what park() has returned
//     rounds N     waits for N more rounds of the thread that calls all the time: "old=N new=N bad=N", of which
//                  each is of one version
//     pointers     whether the functions' addresses are the same as ever, as the patched address() has them, and
//                  as it is when it is called here
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "shapes.h"

#define STEP 1000

volatile int counter = 70001, stored;
_Thread_local int own = 17;

__attribute__((noipa)) int helper(int x)
{
    return x + 3;
}

function *volatile by_pointer = helper;

static function *volatile shapes[SHAPES] = { load_first, store_first, compare_first, call_first, call_at_once,
                                             jump_only, jump_by_pointer, short_jump, loop, table, pushes, big_frame,
                                             thread_variable, fifth_byte, many_arguments_of, address_of_data };
static function *(*volatile call_address)(int) = address;
static int (*volatile call_park)(void) = park;
static int expected[SHAPES][8];
static int orders[2], answers[2];

// 0 for old ones, 1 for new ones, else the number of the first shape of a kind that it should not be, and 2.
static int call_all(void)
{
    int version = -1;
    for (int i = 0; i < SHAPES; i++)
        for (int x = 0; x < 8; x++) {
            int answer = shapes[i](x), step = answer - expected[i][x];
            int this = step == 0 ? 0 : step == STEP ? 1 : 2;
            if (version == -1)
                version = this;
            if (this == 2 || this != version)
                return 2 + i;
        }
    return version;
}

static const char *in_words(int version)
{
    static char text[100];
    if (version < 2)
        return version ? "new" : "old";
    snprintf(text, sizeof text, "shape %d answers %d instead of %d or %d more", version - 2,
             shapes[version - 2](1), expected[version - 2][1], STEP);
    return text;
}

int next_order(void)
{
    char order;
    int answer = -1;
    if (write(answers[1], &answer, sizeof answer) != sizeof answer)
        return 'l';
    while (read(orders[0], &order, 1) == 1 && order == 'a') {
        answer = call_all();
        if (write(answers[1], &answer, sizeof answer) != sizeof answer)
            return 'l';
    }
    return order;
}

static void *lodge(void *unused)
{
    char order;
    while (read(orders[0], &order, 1) == 1) {
        int answer = call_park();
        if (write(answers[1], &answer, sizeof answer) != sizeof answer)
            break;
    }
    return unused;
}

static int tell(char order)
{
    int answer = -2;
    if (write(orders[1], &order, 1) != 1 || read(answers[0], &answer, sizeof answer) != sizeof answer)
        return -2;
    return answer;
}

static volatile long rounds[3];

static void *call_always(void *unused)
{
    for (;;) {
        int version = call_all();
        rounds[version > 2 ? 2 : version]++;
        usleep(100);
    }
    return unused;
}

static void wait_for_rounds(int more)
{
    long before[3] = { rounds[0], rounds[1], rounds[2] };
    while (rounds[0] + rounds[1] + rounds[2] < before[0] + before[1] + before[2] + more)
        usleep(100);
    printf("old=%ld new=%ld bad=%ld\n", rounds[0] - before[0], rounds[1] - before[1], rounds[2] - before[2]);
}

static const char *pointers(void)
{
    for (int i = 0; i < SHAPES; i++)
        if (call_address(i) != shapes[i])
            return "different";
    return call_address == address && call_park == park ? "equal" : "different here";
}

int main(void)
{
    char line[100];
    int number;
    pthread_t thread;
    for (int i = 0; i < SHAPES; i++)
        for (int x = 0; x < 8; x++)
            expected[i][x] = shapes[i](x);
    if (pipe(orders) || pipe(answers) || pthread_create(&thread, NULL, lodge, NULL)
        || pthread_create(&thread, NULL, call_always, NULL))
        return 1;
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        if (!strcmp(line, "all\n"))
            puts(in_words(call_all()));
        else if (!strcmp(line, "park\n"))
            puts(tell('p') == -1 ? "inside" : "failed");
        else if (!strcmp(line, "all inside\n"))
            puts(in_words(tell('a')));
        else if (!strcmp(line, "leave\n"))
            printf("%d\n", tell('l'));
        else if (sscanf(line, "rounds %d", &number) == 1)
            wait_for_rounds(number);
        else if (!strcmp(line, "pointers\n"))
            puts(pointers());
        else
            puts("what?");
    }
    return 0;
}
