// A library that opens libdeep.so and closes it in its destructor, where it asks it once more.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int seen = -1;
static void *library;
static int (*deep)(void);
static int last;

__attribute__((constructor)) static void constructor(void)
{
    Dl_info info;
    char path[400];
    if (!dladdr(&seen, &info))
        return;
    snprintf(path, sizeof path, "%.*s/libdeep.so", (int)(strrchr(info.dli_fname, '/') - info.dli_fname), info.dli_fname);
    library = dlopen(path, RTLD_NOW);
    if (library)
        deep = (int (*)(void))dlsym(library, "deep");
    if (deep)
        seen = last = deep();
}

int answer(void)
{
    last = deep ? deep() : -1;
    return last;
}

__attribute__((destructor)) static void destructor(void)
{
    // Its dependency is what it was until the last destructor has run.
    if (deep && deep() != last)
        abort();
    if (library)
        dlclose(library);
}
