// A program whose only thread runs on a stack that it made itself, in a user context. It has nothing that the fix
// changes until it loads the library.
//
// Commands, one a line:
//     open FILE    loads the library: "opened", or the loader's words (not if it is linked statically)
//     ask          what the library says, or "-"
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>
#ifndef ALONE
#include <dlfcn.h>
#endif

enum { SIZE = 1 << 20 };

static ucontext_t begun, abroad;

static void commands(void)
{
    char line[300], file[256];
    int (*b)(void) = NULL;
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
#ifndef ALONE
        if (sscanf(line, "open %255s", file) == 1) {
            void *library = dlopen(file, RTLD_NOW);
            puts(library ? "opened" : dlerror());
            b = library ? (int (*)(void))dlsym(library, "b") : NULL;
            continue;
        }
#endif
        (void)file;
        b ? printf("b=%d\n", b()) : puts("b=-");
    }
}

int main(void)
{
    getcontext(&abroad);
    abroad.uc_stack.ss_sp = malloc(SIZE);
    abroad.uc_stack.ss_size = SIZE;
    abroad.uc_link = &begun;
    makecontext(&abroad, commands, 0);
    swapcontext(&begun, &abroad);
    return 0;
}
