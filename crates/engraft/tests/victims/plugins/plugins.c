// A program that loads libraries; each has answer() and, for its constructor, "seen".
//
// Commands, one a line:
//     open FILE      with dlopen: "opened", or the loader's words
//     keep FILE      the same with RTLD_NODELETE
//     apart FILE     with dlmopen, in a namespace of its own
//     ask            "answer=N"
//     seen           what the library saw when it was initialised: "seen=N"
//     close          "closed"
//     switch         from now on another library is meant, and the next time this one: "switched"
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

int main(void)
{
    char line[300], file[256];
    void *library = NULL, *other = NULL;
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "open %255s", file) == 1) {
            library = dlopen(file, RTLD_NOW);
            puts(library ? "opened" : dlerror());
        } else if (sscanf(line, "keep %255s", file) == 1) {
            library = dlopen(file, RTLD_NOW | RTLD_NODELETE);
            puts(library ? "opened" : dlerror());
        } else if (sscanf(line, "apart %255s", file) == 1) {
            library = dlmopen(LM_ID_NEWLM, file, RTLD_NOW);
            puts(library ? "opened" : dlerror());
        } else if (strcmp(line, "ask\n") == 0 && library) {
            printf("answer=%d\n", ((int (*)(void))dlsym(library, "answer"))());
        } else if (strcmp(line, "seen\n") == 0 && library) {
            printf("seen=%d\n", *(const int *)dlsym(library, "seen"));
        } else if (strcmp(line, "close\n") == 0 && library) {
            puts(dlclose(library) ? "failed" : "closed");
        } else if (strcmp(line, "switch\n") == 0) {
            void *next = other;
            other = library;
            library = next;
            puts("switched");
        } else {
            puts("what?");
        }
    }
    return 0;
}
