// A program in C, which has no use for libgcc until it loads a library in C++, or asks for a backtrace.
//
// Commands, one a line:
//     ask           what through() and direct() return
//     trace         whether a backtrace from inside of through() gets as far as main()
//     open FILE     loads the library
//     throw         has the library throw through through()
//     close         unloads it
//     libgcc        whether libgcc is loaded
#include "patched.h"
#include <dlfcn.h>
#include <execinfo.h>
#include <stdio.h>
#include <string.h>

int main(void);
static int seen_main;

int callee(void)
{
    return 1;
}

__attribute__((noipa)) static int traced(void)
{
    void *frames[50];
    int count = backtrace(frames, 50);
    seen_main = 0;
    for (int at = 0; at < count; at++) {
        long distance = (const char *)frames[at] - (const char *)main;
        seen_main |= distance > 0 && distance < 1000;
    }
    return 1;
}

int main(void)
{
    char line[4000];
    void *library = NULL;
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        if (!strcmp(line, "ask")) {
            printf("%d\n", through(direct));
        } else if (!strcmp(line, "trace")) {
            through(traced);
            puts(seen_main ? "as far as main" : "cut off");
        } else if (!strncmp(line, "open ", 5)) {
            library = dlopen(line + 5, RTLD_NOW);
            puts(library ? "opened" : dlerror());
        } else if (!strcmp(line, "throw")) {
            const char *(*attempt)(int (*)(int (*)(void))) = dlsym(library, "attempt");
            puts(attempt(through));
        } else if (!strcmp(line, "close")) {
            puts(dlclose(library) ? dlerror() : "closed");
        } else if (!strcmp(line, "libgcc")) {
            void *loaded = dlopen("libgcc_s.so.1", RTLD_NOW | RTLD_NOLOAD);
            puts(loaded ? "loaded" : "not loaded");
            if (loaded)
                dlclose(loaded);
        } else {
            puts("what?");
        }
    }
    return 0;
}
