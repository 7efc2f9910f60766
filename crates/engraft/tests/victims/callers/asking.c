// Asks the loader. `ask` answers, by its argument:
//     next       which() behind this library's, and by default: "VERSION N N"
//     version    whether a version of dlopen is found behind this library: "VERSION N"
//     open       whether libsub.so is found: "VERSION found"
//     known      whether dl_iterate_phdr lists this library, as the caller's namespace has it: "VERSION N"
//     deep       as next, asked by a function that calls another one
#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <string.h>

#include "asking.h"

static char answer[256];

__attribute__((noipa)) int which(void)
{
    return 2;
}

static int call(void *function)
{
    return function ? ((int (*)(void))function)() : -1;
}

__attribute__((noipa)) static void next(void)
{
    void *found = dlsym(RTLD_NEXT, "which");
    void *first = dlsym(RTLD_DEFAULT, "which");
    snprintf(answer, sizeof answer, "old %d %d", call(found), call(first));
}

__attribute__((noipa)) static void version(void)
{
    void *found = dlvsym(RTLD_NEXT, "fputs", "GLIBC_2.2.5");
    snprintf(answer, sizeof answer, "old %d", found != NULL);
}

__attribute__((noipa)) static void open_sub(void)
{
    void *library = dlopen("libsub.so", RTLD_NOW);
    snprintf(answer, sizeof answer, "old %s", library ? "found" : dlerror());
    if (library)
        dlclose(library);
}

static int is_own(struct dl_phdr_info *info, size_t size, void *found)
{
    (void)size;
    for (int index = 0; index < info->dlpi_phnum; index++) {
        ElfW(Addr) start = info->dlpi_addr + info->dlpi_phdr[index].p_vaddr;
        if (info->dlpi_phdr[index].p_type == PT_LOAD && (ElfW(Addr))answer - start < info->dlpi_phdr[index].p_memsz)
            *(int *)found = 1;
    }
    return 0;
}

__attribute__((noipa)) static void known(void)
{
    int found = 0;
    dl_iterate_phdr(is_own, &found);
    snprintf(answer, sizeof answer, "old %d", found);
}

__attribute__((noipa)) static void deep(void)
{
    if (which() > 0)
        next();
}

// Its return address is its caller's.
__attribute__((noipa)) void *tail(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

// Its call is among its first instructions.
__attribute__((noipa)) int opens(const char *name, int mode)
{
    return dlopen(name, mode) != NULL;
}

// While it waits for a line, its thread runs old code; then it says whether libsub.so is found.
__attribute__((noipa)) const char *hold(void)
{
    char line[64];
    puts("holding");
    if (!fgets(line, sizeof line, stdin))
        return "no line";
    snprintf(answer, sizeof answer, "old %d", opens("libsub.so", RTLD_NOW));
    return answer;
}

const char *ask(const char *what)
{
    if (strcmp(what, "next") == 0)
        next();
    else if (strcmp(what, "version") == 0)
        version();
    else if (strcmp(what, "open") == 0)
        open_sub();
    else if (strcmp(what, "known") == 0)
        known();
    else if (strcmp(what, "deep") == 0)
        deep();
    else
        return "what?";
    return answer;
}
