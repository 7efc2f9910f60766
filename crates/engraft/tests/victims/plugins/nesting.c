// A library whose constructor opens another one, libdeep.so beside it.
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

int seen = -1;
static int (*deep)(void);

__attribute__((constructor)) static void constructor(void)
{
    Dl_info info;
    char path[400];
    if (!dladdr(&seen, &info))
        return;
    snprintf(path, sizeof path, "%.*s/libdeep.so", (int)(strrchr(info.dli_fname, '/') - info.dli_fname), info.dli_fname);
    void *library = dlopen(path, RTLD_NOW);
    if (!library)
        return;
    deep = (int (*)(void))dlsym(library, "deep");
    seen = deep();
}

int answer(void)
{
    return deep ? deep() : -1;
}
