// The lies. Numbers are drawn by lot, so that each seed lies in another way; `odd` prefers those that break programs.
#include "abi.h"
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

static unsigned long seed, state;
static char *self, *target_file;
static const char *const texts[] = {
    "\033[2J\033[1;1H\033]0;taken\007", "fix\r\nprocess 1: 1 patch\n  1. fix (enabled)", "\xc2\x9b" "31m\xe2\x80\xae" "xif",
    "fix", "hostile", "", "%s%n", "/usr/lib/libanswer.so", "\xff\xfe\x80",
};

static unsigned long next(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static unsigned long draw(unsigned long below)
{
    return next() % below;
}

static const char *text(void)
{
    return texts[draw(sizeof texts / sizeof *texts)];
}

static void *memory(size_t length, int protection)
{
    return mmap(NULL, length, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

// A number that programs get wrong; `near` is one that makes sense.
static uint64_t odd(uint64_t near)
{
    switch (draw(10)) {
    case 0: return 0;
    case 1: return ~0ul;
    case 2: return 1ul << draw(64);
    case 3: return (1ul << draw(64)) - 1;
    case 4: return -near;
    case 5: return next();
    case 6: return near + draw(4096) - 2048;
    case 7: return near * (1 + draw(1 << 20));
    default: return near;
    }
}

static void thread(void *(*run)(void *), void *argument)
{
    pthread_t made;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 64 << 10);
    if (pthread_create(&made, &attributes, run, argument) == 0)
        pthread_detach(made);
    pthread_attr_destroy(&attributes);
}

// ---- an agent that is none

static const unsigned char returning[] = {0x48, 0x89, 0xc3, 0xb8, 15, 0, 0, 0, 0x0f, 5};

// What a call of the agent runs into. `code` is executable.
static void fake_entry(unsigned char *code)
{
    static const unsigned char loop[] = {0xeb, 0xfe}, crash[] = {0x0f, 0x0b};
    // pause(), exit(), exit_group(), vfork() whose child pauses, munmap() of everything.
    static const unsigned char calls[][32] = {
        {0xb8, 34, 0, 0, 0, 0x0f, 5, 0xeb, 0xf7},
        {0xb8, 60, 0, 0, 0, 0x0f, 5},
        {0xb8, 231, 0, 0, 0, 0x0f, 5},
        {0xb8, 58, 0, 0, 0, 0x0f, 5, 0xb8, 34, 0, 0, 0, 0x0f, 5, 0xeb, 0xf7},
        {0xb8, 11, 0, 0, 0, 0x31, 0xff, 0x48, 0xc7, 0xc6, 0, 0, 0, 0x70, 0x0f, 5},
    };
    memcpy(code + 64, returning, sizeof returning);
    switch (draw(8)) {
    case 0: memcpy(code, loop, sizeof loop); break;
    case 1: memcpy(code, crash, sizeof crash); break;
    case 2: memcpy(code, calls[draw(5)], 32); break;
    default:
        // mov $outcome, %eax; ret
        code[0] = 0xb8;
        *(uint32_t *)(code + 1) = draw(4) ? draw(16) : next();
        code[5] = 0xc3;
    }
}

// Tables anywhere in the snapshot, often one over the other.
static uint64_t fake_table(uint64_t length, uint64_t size)
{
    uint64_t offset = draw(length / 8) * 8, most = (length - offset) / size;
    uint64_t count = draw(4) ? draw(8) : draw(2) ? most : odd(most);
    return count << 32 | (uint32_t)(draw(8) ? offset : odd(offset));
}

static uint64_t fake_bytes(unsigned char *snapshot, uint64_t length)
{
    uint64_t offset = draw(length - 128), size = draw(4) ? draw(60) : draw(2) ? length - offset : odd(60);
    if (draw(4)) {
        const char *words = text();
        memcpy(snapshot + offset, words, strlen(words));
        size = strlen(words);
    }
    return size << 32 | (uint32_t)offset;
}

static void fake_snapshot(unsigned char *snapshot, uint64_t length)
{
    // Small numbers, names and tables everywhere: most of it is a record of some kind.
    for (uint64_t at = 0; at + 8 <= length; at += 8 + draw(8) * 8) {
        uint64_t *word = (uint64_t *)(snapshot + at);
        switch (draw(5)) {
        case 0: *word = draw(5); break;
        case 1: *word = fake_table(length, 8 << draw(4)); break;
        case 2: *word = fake_bytes(snapshot, length); break;
        case 3: *word = odd((uint64_t)snapshot); break;
        default: *word = 0;
        }
    }
    struct header *header = (struct header *)snapshot;
    uint64_t patches = sizeof *header + draw(64) * 8, count = 1 + draw(draw(4) ? 4 : 4000);
    header->patches = count << 32 | patches;
    header->transition_patch = draw(3);
    header->waiting = fake_table(length, 8);
    header->unwinders = draw(4) ? 0 : fake_table(length, 32);
    for (uint64_t i = 0; i < count && patches + (i + 1) * sizeof(struct patch) < length / 2; i++) {
        struct patch *patch = (struct patch *)(snapshot + patches) + i;
        patch->number = draw(4) ? i + 1 : next();
        patch->state = draw(8) ? draw(4) : next();
        patch->name = fake_bytes(snapshot, length);
        patch->objects = draw(2) ? 0 : fake_table(length, sizeof(struct object));
    }
    header->length = odd(length);
}

static void fake_agent(void)
{
    const size_t size = 8 << 20;
    int file = memfd_create("engraft-agent", 0);
    if (ftruncate(file, size))
        return;
    unsigned char *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    close(file);
    unsigned char *code = memory(8192, PROT_READ | PROT_WRITE | PROT_EXEC);
    fake_entry(code);
    memcpy(base, MAGIC, 16);
    uint64_t length = draw(8) ? 4096 << draw(10) : 6 << 20, place = 1 << 20;
#define SET(field, value) (*(uint64_t *)(base + CONTROL_##field) = (value))
    SET(VERSION, draw(16) ? AGENT_VERSION : next());
    SET(MAPPING_LENGTH, draw(4) ? size : odd(size));
    SET(ENTER, draw(8) ? (uint64_t)code : odd((uint64_t)code));
    SET(RESTORER, draw(16) ? (uint64_t)code + 64 : odd((uint64_t)code));
    SET(HOOK, (uint64_t)code);
    SET(STACK_TOP, draw(8) ? (uint64_t)base + (512 << 10) : odd((uint64_t)base + 4096));
    SET(ATTACHED, draw(2));
    SET(SNAPSHOT, draw(16) ? (uint64_t)base + place : odd((uint64_t)base));
    SET(SNAPSHOT_GENERATION, draw(8) ? 2 : draw(100));
    SET(SNAPSHOT_LENGTH, draw(8) ? length : odd(length));
    SET(GENERATION, draw(10));
    SET(CONTROLLED, draw(2));
    SET(HOLDER, draw(4) ? 0 : odd((uint64_t)base));
    SET(RANGES, draw(4) ? (uint64_t)base + place : odd((uint64_t)base));
    SET(RANGE_COUNT, draw(4) ? draw(100) : odd(1000));
    SET(SITES, draw(4) ? (uint64_t)base + place : odd((uint64_t)base));
    SET(SITE_COUNT, draw(4) ? draw(100) : odd(1000));
    const char *words = text();
    SET(VALUE, draw(2) ? (uint64_t)base + (2 << 20) : odd((uint64_t)base));
    SET(TEXT_LENGTH, draw(8) ? strlen(words) : odd(400));
    memcpy(base + CONTROL_TEXT, words, strlen(words));
    if (draw(8))
        fake_snapshot(base + place, length);
}

// ---- a loader that is none

struct map {
    uint64_t bias, name, dynamic, next, previous;
};

static struct r_debug *debug_interface(void)
{
    for (ElfW(Dyn) *entry = _DYNAMIC; entry->d_tag; entry++)
        if (entry->d_tag == DT_DEBUG)
            return (struct r_debug *)entry->d_un.d_ptr;
    return NULL;
}

static void writable(void *at, size_t length)
{
    uintptr_t page = (uintptr_t)at & ~4095ul;
    mprotect((void *)page, (uintptr_t)at + length - page, PROT_READ | PROT_WRITE);
}

static void fake_link_maps(void)
{
    struct r_debug *base = debug_interface();
    if (base == NULL)
        return;
    size_t count = draw(4) ? 1 + draw(50) : draw(4) ? 3000 : 60000, headers = 1 + draw(1000);
    struct map *maps = memory(count * sizeof *maps + 4096, PROT_READ | PROT_WRITE);
    unsigned char *files = memory(count * 64 + 4096, PROT_READ | PROT_WRITE);
    Elf64_Phdr *table = memory(1024 * sizeof *table, PROT_READ | PROT_WRITE);
    char *name = memory(8192, PROT_READ | PROT_WRITE);
    memset(name, '/', draw(2) ? 5000 : 20);
    memcpy(name + 1, text(), 10);
    for (size_t i = 0; i < headers; i++)
        table[i] = (Elf64_Phdr){
            .p_type = draw(3) ? 1 + draw(7) : 0x6474e550, .p_flags = 5, .p_offset = draw(2) ? 0 : next(),
            .p_vaddr = odd(64), .p_filesz = odd(4096), .p_memsz = odd(4096), .p_align = draw(2) ? 8 : next(),
        };
    if (draw(4)) {
        // As the loader would have it, so that the file is believed.
        table[0] = (Elf64_Phdr){.p_type = PT_LOAD, .p_memsz = odd(~0ul)};
        table[1] = (Elf64_Phdr){.p_type = PT_DYNAMIC, .p_vaddr = 8, .p_memsz = odd(4096)};
    }
    for (size_t i = 0; i < count; i++) {
        Elf64_Ehdr *file = (Elf64_Ehdr *)(files + 64 * i);
        memcpy(file->e_ident, ELFMAG, 4);
        file->e_ident[4] = ELFCLASS64;
        file->e_phoff = (char *)table - (char *)file;
        file->e_phnum = draw(16) ? headers : next();
        maps[i] = (struct map){
            .bias = draw(16) ? (uint64_t)file : odd((uint64_t)file), .name = (uint64_t)name,
            .dynamic = draw(16) ? (uint64_t)file + 8 : odd((uint64_t)file),
            .next = i + 1 < count ? (uint64_t)&maps[i + 1] : draw(2) ? 0 : (uint64_t)maps,
            .previous = i ? (uint64_t)&maps[i - 1] : 0,
        };
    }
    // Sometimes behind the true ones, which are then all found.
    struct map *last = (struct map *)base->r_map;
    while (last->next)
        last = (struct map *)last->next;
    int behind = draw(2);
    if (behind)
        maps[0].previous = (uint64_t)last;
    struct { struct r_debug base; uint64_t next; } *chain = memory(200 * sizeof *chain, PROT_READ | PROT_WRITE);
    size_t spaces = draw(4) ? draw(4) : draw(200);
    for (size_t i = 0; i < spaces; i++) {
        chain[i].base = *base;
        chain[i].base.r_version = 2;
        chain[i].base.r_map = (struct link_map *)(draw(2) ? maps : NULL);
        chain[i].base.r_state = draw(4) ? 0 : draw(4);
        chain[i].next = (uint64_t)(i + 1 < spaces ? &chain[i + 1] : draw(2) ? &chain[0] : NULL);
    }
    struct { struct r_debug base; uint64_t next; } *copy = memory(4096, PROT_READ | PROT_WRITE);
    copy->base = *base;
    copy->base.r_version = 2;
    copy->next = (uint64_t)(spaces ? &chain[0] : NULL);
    for (ElfW(Dyn) *entry = _DYNAMIC; entry->d_tag; entry++)
        if (entry->d_tag == DT_DEBUG) {
            writable(entry, sizeof *entry);
            entry->d_un.d_ptr = (uint64_t)copy;
        }
    if (behind)
        last->next = (uint64_t)maps;
}

// ---- files that are other files

static void fake_headers(void)
{
    Elf64_Phdr *table = (Elf64_Phdr *)getauxval(AT_PHDR);
    size_t count = getauxval(AT_PHNUM);
    writable(table, count * sizeof *table);
    for (int i = 1 + draw(4); i > 0; i--) {
        Elf64_Phdr *header = &table[draw(count)];
        uint64_t *fields[] = {&header->p_vaddr, &header->p_memsz, &header->p_filesz, &header->p_offset, &header->p_align};
        uint64_t *field = fields[draw(5)];
        *field = odd(*field);
        if (draw(8) == 0)
            header->p_type = draw(8);
    }
}

static int spoil(struct dl_phdr_info *info, size_t size, void *wanted)
{
    (void)size;
    if (strstr(info->dlpi_name, "answer") == NULL && draw(4))
        return 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const Elf64_Phdr *header = &info->dlpi_phdr[i];
        unsigned char *at = (unsigned char *)info->dlpi_addr + header->p_vaddr;
        uint32_t kind = *(uint32_t *)wanted;
        if (header->p_type != kind || header->p_memsz < 64)
            continue;
        writable(at, header->p_memsz);
        for (int n = 1 + draw(8); n > 0; n--) {
            uint64_t *word = (uint64_t *)(at + draw(header->p_memsz / 8 - 1) * 8);
            *word = odd(*word);
        }
    }
    return 0;
}

static void fake_dynamic(void)
{
    // The tables of a process that needs them no more: what was to be resolved is.
    static const uint32_t kinds[] = {PT_NOTE, PT_GNU_EH_FRAME, PT_DYNAMIC, PT_DYNAMIC};
    uint32_t kind = kinds[draw(4)];
    dl_iterate_phdr(spoil, &kind);
}

// ---- descriptors and locks

static void *swap(void *unused)
{
    (void)unused;
    char pipe_name[] = "/tmp/engraft-hostile-XXXXXX";
    int other = open(target_file, O_PATH), numbers = 0;
    if (mkdtemp(pipe_name) != NULL)
        rmdir(pipe_name);
    for (;;) {
        for (int number = 3; number < 12; number++)
            if (number != other)
                numbers += dup2(other, number);
        usleep(numbers % 50);
        for (int number = 3; number < 12; number++)
            if (number != other)
                close(number);
    }
    return NULL;
}

static void swap_descriptors(void)
{
    thread(swap, NULL);
}

static void hold_lock(void)
{
    static const char *const places[] = {"/proc/self/fd", "/proc/self", "/proc/self/task", "/proc/self/ns"};
    for (int i = 0; i < 4; i++)
        flock(open(places[i], O_RDONLY | O_DIRECTORY), LOCK_EX | LOCK_NB);
}

// ---- threads and time

static void *briefly(void *unused)
{
    prctl(PR_SET_NAME, text());
    usleep((uintptr_t)unused);
    return NULL;
}

static void *churn(void *unused)
{
    (void)unused;
    for (uintptr_t n = 0;; n++) {
        thread(briefly, (void *)(n % 300));
        usleep(n % 7 * 30);
    }
    return NULL;
}

static void churn_threads(void)
{
    thread(churn, NULL);
}

static void *stay(void *unused)
{
    (void)unused;
    prctl(PR_SET_NAME, text());
    for (;;)
        pause();
    return NULL;
}

static void many_threads(void)
{
    for (int i = draw(8) ? draw(20) : 300; i > 0; i--)
        thread(stay, NULL);
}

static void odd_names(void)
{
    prctl(PR_SET_NAME, text());
    thread(stay, NULL);
    char name[100];
    snprintf(name, sizeof name, "%s\n%s", text(), text());
    int file = memfd_create(name, 0);
    if (ftruncate(file, 4096) == 0)
        mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0);
    close(file);
}

static void many_mappings(void)
{
    const size_t page = 4096, count = draw(4) ? 2000 : 60000;
    unsigned char *all = memory(count * page, PROT_READ);
    for (size_t i = 0; i < count; i += 2)
        mprotect(all + i * page, page, draw(8) ? PROT_NONE : PROT_READ | PROT_EXEC);
    int file = memfd_create(draw(2) ? "engraft-agent" : "engraft", 0);
    if (ftruncate(file, page) == 0)
        for (int i = draw(draw(4) ? 10 : 2000); i > 0; i--)
            mmap(NULL, page, PROT_READ, i % 2 ? MAP_PRIVATE : MAP_SHARED, file, 0);
    close(file);
}

// Writes into a true agent, as soon as one comes.
static void *scribble(void *unused)
{
    (void)unused;
    char line[512];
    for (;;) {
        FILE *maps = fopen("/proc/self/maps", "r");
        while (maps && fgets(line, sizeof line, maps)) {
            unsigned long start, end;
            char permissions[5];
            if (sscanf(line, "%lx-%lx %4s", &start, &end, permissions) != 3 || !strstr(line, "engraft") || permissions[1] != 'w')
                continue;
            for (int i = draw(8); i > 0; i--) {
                // The control block mostly: the rest is rarely looked at.
                uint64_t reach = draw(4) ? 4096 : end - start, *word = (uint64_t *)(start + draw(reach / 8) * 8);
                *word = odd(*word);
            }
        }
        if (maps)
            fclose(maps);
        usleep(draw(3000));
    }
    return NULL;
}

static void scribble_agent(void)
{
    thread(scribble, NULL);
}

static void *end(void *unused)
{
    (void)unused;
    char number[30];
    usleep(draw(400000));
    if (draw(2))
        _exit(0);
    snprintf(number, sizeof number, "%lu", seed + 1);
    execl("/proc/self/exe", self, number, "0", NULL);
    _exit(1);
}

static void end_at_random(void)
{
    thread(end, NULL);
}
