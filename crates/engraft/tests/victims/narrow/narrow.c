// A program that has taken all memory near its code, and a function with a jump back to its very beginning.
//
// Commands: "a" says "a=N"; "fill" takes all that is free within 2 GiB of the code; "back" says what the function
// that jumps back says.
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

__attribute__((noipa)) int a(void)
{
    return 100;
}

#define STEP 0
#define TEXT(x) #x
#define DIGITS(x) TEXT(x)

// Counts down from x: the jump leads to the first instruction but one.
__attribute__((naked, noipa)) int back(int x)
{
    (void)x;
    __asm__("xor %eax, %eax\n"
            "1: inc %eax\n"
            "dec %edi\n"
            "jns 1b\n"
            "add $" DIGITS(STEP) ", %eax\n"
            "ret");
}

static int (*volatile call_a)(void) = a;
static int (*volatile call_back)(int) = back;

static int fill(void)
{
    unsigned long middle = (unsigned long)a, reach = 0x80100000, page = 4096;
    unsigned long low = middle > reach + 0x10000 ? (middle - reach) & -page : 0x10000, high = middle + reach;
    char line[400];
    // The map changes as it is read, so each hole is looked for anew.
    for (int holes = 0; holes < 1000; holes++) {
        unsigned long start, end, free = low, hole = 0, hole_end = 0;
        FILE *maps = fopen("/proc/self/maps", "r");
        while (maps && fgets(line, sizeof line, maps)) {
            if (sscanf(line, "%lx-%lx", &start, &end) != 2 || end <= low)
                continue;
            if (start > free && !hole) {
                hole = free;
                hole_end = start < high ? start : high;
            }
            if (end > free)
                free = end;
        }
        if (maps)
            fclose(maps);
        if (!hole && free < high) {
            hole = free;
            hole_end = high;
        }
        if (!hole || hole >= high)
            return 0;
        int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
        if (mmap((void *)hole, hole_end - hole, PROT_NONE, flags, -1, 0) == MAP_FAILED)
            return 1;
    }
    return 1;
}

int main(void)
{
    char line[100];
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        if (!strcmp(line, "a\n"))
            printf("a=%d\n", call_a());
        else if (!strcmp(line, "fill\n"))
            puts(fill() ? "failed" : "filled");
        else if (!strcmp(line, "back\n"))
            printf("back=%d\n", call_back(3));
        else
            puts("what?");
    }
    return 0;
}
