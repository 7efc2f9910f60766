// A function that has something to do when an exception comes through it. Gets patched.
#include "patched.h"

static void tidy_up(int **tidied)
{
    **tidied = 1;
}

__attribute__((noipa)) int tidy(int (*call)(void), int *tidied)
{
    __attribute__((cleanup(tidy_up))) int *place = tidied;
    return call() + 1000;
}
