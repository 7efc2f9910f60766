/* Threads that compute in vector registers and check what they hold; `count` says how often they went
 * round, and whether anything was ever wrong. Further threads sleep. Arguments: spinning, sleeping. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static atomic_ulong rounds, wrong;
static atomic_int started;

/* Loads all xmm/ymm registers and the x87 stack, waits a while in registers alone, compares. */
__attribute__((noinline)) static int registers_hold(int avx) {
    uint64_t pattern[16][4], seen[16][4];
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 4; j++) pattern[i][j] = 0x0102030405060708ull * (i + 1) + j;
    double pi = 0;
    if (avx) {
#define LOAD(n) "vmovdqu 32*" #n "(%0), %%ymm" #n "\n"
#define STORE(n) "vmovdqu %%ymm" #n ", 32*" #n "(%1)\n"
        __asm__ volatile("fldpi\n"
            LOAD(0) LOAD(1) LOAD(2) LOAD(3) LOAD(4) LOAD(5) LOAD(6) LOAD(7)
            LOAD(8) LOAD(9) LOAD(10) LOAD(11) LOAD(12) LOAD(13) LOAD(14) LOAD(15)
            "mov $20000, %%ecx\n1: dec %%ecx\njnz 1b\n"
            STORE(0) STORE(1) STORE(2) STORE(3) STORE(4) STORE(5) STORE(6) STORE(7)
            STORE(8) STORE(9) STORE(10) STORE(11) STORE(12) STORE(13) STORE(14) STORE(15)
            "fstpl (%2)\nvzeroupper\n"
            :: "r"(pattern), "r"(seen), "r"(&pi) : "rcx", "memory", "cc",
            "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
            "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
        return !memcmp(pattern, seen, sizeof seen) && pi > 3.14159 && pi < 3.1416;
    }
    __asm__ volatile("fldpi\nmov $20000, %%ecx\n1: dec %%ecx\njnz 1b\nfstpl (%0)\n"
        :: "r"(&pi) : "rcx", "memory", "cc");
    return pi > 3.14159 && pi < 3.1416;
}

static void *spin(void *unused) {
    int avx = __builtin_cpu_supports("avx");
    started++;
    for (;;) {
        if (!registers_hold(avx)) wrong++;
        rounds++;
    }
    return unused;
}

static void *sleeper(void *unused) {
    started++;
    for (;;) pause();
    return unused;
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    int spinning = atoi(argv[1]), sleeping = atoi(argv[2]);
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 1 << 16);
    for (int i = 0; i < spinning + sleeping; i++) {
        pthread_t t;
        if (pthread_create(&t, &small, i < spinning ? spin : sleeper, NULL)) return 1;
    }
    while (started < spinning + sleeping) usleep(100);
    printf("ready\n");
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        /* A few more rounds in every case: what was disturbed shows. */
        unsigned long before = rounds;
        while (spinning && rounds < before + 10 * spinning) usleep(100);
        printf("%s\n", wrong ? "wrong" : "right");
    }
    return 0;
}
