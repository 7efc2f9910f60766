// A program whose libraries ask the dynamic loader for what depends on who asks.
//
// `which()` is defined here (1), in libasking.so (2) and in libsecond.so (3), in this order. libsub.so is found along
// libasking.so's RUNPATH only.
//
// Commands, one a line: see libasking.so for what it answers. Here:
//     own        which() behind the one here: "VERSION N"
//     tail       the same, asked by a function of libasking.so that makes a tail call: "tail N"
//     hold       see libasking.so
// With an argument, that library is asked, in a namespace of its own.
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "asking.h"

int which(void)
{
    return 1;
}

__attribute__((noipa)) const char *own(void)
{
    static char answer[64];
    int (*next)(void) = (int (*)(void))dlsym(RTLD_NEXT, "which");
    snprintf(answer, sizeof answer, "old %d", next ? next() : -1);
    return answer;
}

int main(int count, char **arguments)
{
    char line[64];
    const char *(*asked)(const char *) = ask;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (count > 1) {
        void *library = dlmopen(LM_ID_NEWLM, arguments[1], RTLD_NOW);
        if (!library) {
            puts(dlerror());
            return 1;
        }
        asked = (const char *(*)(const char *))dlsym(library, "ask");
    }
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        if (strcmp(line, "own") == 0)
            puts(own());
        else if (strcmp(line, "hold") == 0)
            puts(hold());
        else if (strcmp(line, "tail") == 0)
            printf("tail %d\n", tail("which") ? ((int (*)(void))tail("which"))() : -1);
        else
            puts(asked(line));
    }
    return 0;
}
