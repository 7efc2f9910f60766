// Lies that are not drawn: each once made root use gigabytes, hang, or print what the process wanted.

static unsigned char *certain_agent(uint64_t length, const unsigned char *entry, size_t entry_length)
{
    const size_t size = 80 << 20;
    int file = memfd_create("engraft-agent", 0);
    if (ftruncate(file, size))
        _exit(1);
    unsigned char *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    close(file);
    unsigned char *code = memory(4096, PROT_READ | PROT_WRITE | PROT_EXEC);
    memcpy(code, entry, entry_length);
    memcpy(code + 64, returning, sizeof returning);
    memcpy(base, MAGIC, 16);
    SET(VERSION, AGENT_VERSION);
    SET(MAPPING_LENGTH, 4096);
    SET(ENTER, (uint64_t)code);
    SET(RESTORER, (uint64_t)code + 64);
    SET(STACK_TOP, (uint64_t)base + (512 << 10));
    SET(ATTACHED, 1);
    SET(SNAPSHOT, (uint64_t)base + (1 << 20));
    SET(SNAPSHOT_GENERATION, 2);
    SET(SNAPSHOT_LENGTH, length);
    struct header *header = (struct header *)(base + (1 << 20));
    header->length = length;
    return base;
}

#define TABLE(offset, count) ((uint64_t)(count) << 32 | (uint32_t)(offset))

static const unsigned char looping[] = {0xeb, 0xfe}, refusing[] = {0xb8, 6, 0, 0, 0, 0xc3};

static struct patch *patches_of(unsigned char *base, uint64_t count)
{
    struct header *header = (struct header *)(base + (1 << 20));
    header->patches = TABLE(4096, count);
    struct patch *patches = (struct patch *)((unsigned char *)header + 4096);
    for (uint64_t i = 0; i < count; i++)
        patches[i].number = i + 1, patches[i].state = 1;
    return patches;
}

// Two thousand patches with one name, which is as long as a snapshot may be.
static void long_name(uint64_t length)
{
    unsigned char *base = certain_agent(length, looping, sizeof looping);
    memset(base + (1 << 20) + (1 << 19), 'A', length - (1 << 19));
    struct patch *patches = patches_of(base, 2000);
    for (int i = 0; i < 2000; i++)
        patches[i].name = TABLE(1 << 19, length - (1 << 19));
}

static void long_names(void)
{
    long_name(63 << 20);
}

static void long_names_within(void)
{
    long_name(4 << 20);
}

// Every patch has all objects, and they are the patches.
static void tables_in_tables(void)
{
    unsigned char *base = certain_agent(4 << 20, looping, sizeof looping);
    struct patch *patches = patches_of(base, 20000);
    for (int i = 0; i < 20000; i++)
        patches[i].objects = TABLE(2 << 20, 16000);
}

static void large_images(void)
{
    unsigned char *base = certain_agent(4 << 20, looping, sizeof looping), *snapshot = base + (1 << 20);
    struct patch *patch = patches_of(base, 1);
    patch->objects = TABLE(8192, 1);
    struct object *object = (struct object *)(snapshot + 8192);
    object->instances = TABLE(1 << 20, 40000);
    struct instance *instances = (struct instance *)(snapshot + (1 << 20));
    for (int i = 0; i < 40000; i++)
        instances[i].image = 0x10000, instances[i].image_length = 1ul << 40;
}

static void never_at_rest(void)
{
    unsigned char *base = certain_agent(4 << 20, looping, sizeof looping);
    SET(SNAPSHOT_GENERATION, 1);
}

// A transition that waits for the first thread, whose name is a command to the terminal.
static void open_transition(const unsigned char *entry, size_t entry_length)
{
    unsigned char *base = certain_agent(1 << 20, entry, entry_length), *snapshot = base + (1 << 20);
    struct header *header = (struct header *)snapshot;
    struct patch *patch = patches_of(base, 2);
    static const char forged[] = "x\033[2J\r\nprocess 1: 1 patch\n  1. sure (enabled)\033[8m\xe2\x80\xae";
    memcpy(snapshot + 32768, forged, sizeof forged);
    memcpy(snapshot + 40960, "hostile", 8);
    patch[0].name = TABLE(40960, 7), patch[0].state = 2;
    patch[1].name = TABLE(32768, sizeof forged - 1);
    header->transition_patch = header->to_patched = header->started = 1;
    header->waiting = TABLE(16384, 1);
    __asm__("mov %%fs:0, %0" : "=r"(*(uint64_t *)(snapshot + 16384)));
    static const char words[] = "\033[2J\033[31mpatch applied\033[0m\r\n\xc2\x9b" "0m";
    SET(TEXT_LENGTH, sizeof words - 1);
    memcpy(base + CONTROL_TEXT, words, sizeof words);
    prctl(PR_SET_NAME, "\033[31mX\nY");
}

static void never_answers(void)
{
    open_transition(looping, sizeof looping);
}

static void answers_commands(void)
{
    open_transition(refusing, sizeof refusing);
}

// Sixty thousand link maps in each of sixty namespaces, each with as many program headers as can be.
static void endless_link_maps(void)
{
    struct r_debug *base = debug_interface();
    const size_t count = 60000, spaces = 60, headers = 1024;
    struct map *maps = memory(count * sizeof *maps, PROT_READ | PROT_WRITE);
    unsigned char *files = memory(count * 64, PROT_READ | PROT_WRITE);
    Elf64_Phdr *table = memory(headers * sizeof *table, PROT_READ | PROT_WRITE);
    char *name = memory(8192, PROT_READ | PROT_WRITE);
    memset(name, '/', 5000);
    table[0] = (Elf64_Phdr){.p_type = PT_LOAD, .p_memsz = ~0ul};
    table[1] = (Elf64_Phdr){.p_type = PT_DYNAMIC, .p_vaddr = 8, .p_memsz = ~0ul};
    for (size_t i = 0; i < count; i++) {
        Elf64_Ehdr *file = (Elf64_Ehdr *)(files + 64 * i);
        memcpy(file->e_ident, ELFMAG, 4);
        file->e_ident[4] = ELFCLASS64;
        file->e_phoff = (char *)table - (char *)file;
        file->e_phnum = headers;
        maps[i] = (struct map){(uint64_t)file, (uint64_t)name, (uint64_t)file + 8, i + 1 < count ? (uint64_t)&maps[i + 1] : 0,
                               i ? (uint64_t)&maps[i - 1] : 0};
    }
    struct { struct r_debug base; uint64_t next; } *chain = memory(4096 + spaces * sizeof *chain, PROT_READ | PROT_WRITE);
    for (size_t i = 0; i < spaces; i++) {
        chain[i].base = *base;
        chain[i].base.r_version = 2;
        if (i > 0)
            chain[i].base.r_map = (struct link_map *)maps;
        chain[i].next = (uint64_t)(i + 1 < spaces ? &chain[i + 1] : NULL);
    }
    for (ElfW(Dyn) *entry = _DYNAMIC; entry->d_tag; entry++)
        if (entry->d_tag == DT_DEBUG) {
            writable(entry, sizeof *entry);
            entry->d_un.d_ptr = (uint64_t)chain;
        }
}
