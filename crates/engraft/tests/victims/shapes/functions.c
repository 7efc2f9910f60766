// Functions that begin in many ways. All have the answer's step in them, so that one line of the fix changes all.
#include "shapes.h"

#define STEP 0
#define TEXT(x) #x
#define DIGITS(x) TEXT(x)

NOIPA int load_first(int x)
{
    return counter + x + STEP;
}

NOIPA int store_first(int x)
{
    stored = x;
    return stored + 1 + STEP;
}

// An immediate behind the displacement.
NOIPA int compare_first(int x)
{
    if (counter == 70001)
        return x - 5 + STEP;
    return x + 6 + STEP;
}

NOIPA int call_first(int x)
{
    return helper(x) + 2 + STEP;
}

// The call is the first instruction, and its return address is in the middle of what a jump overwrites, or just
// behind.
__attribute__((naked)) NOIPA int call_at_once(int x)
{
    __asm__("call helper\n"
            "add $(7 + " DIGITS(STEP) "), %eax\n"
            "ret");
}

// Nothing but a jump.
NOIPA int jump_only(int x)
{
    return helper(x + STEP);
}

NOIPA int jump_by_pointer(int x)
{
    return by_pointer(x + STEP);
}

NOIPA int short_jump(int x)
{
    if (x < 0)
        return STEP - 1;
    return x * 3 + STEP;
}

NOIPA int loop(int x)
{
    int sum = helper(STEP);
    while (x > 0) {
        sum += x * counter;
        x--;
    }
    return sum;
}

NOIPA int table(int x)
{
    switch (x) {
    case 0: return counter + 11 + STEP;
    case 1: return stored * 0 + 21 + STEP;
    case 2: return helper(31) + STEP;
    case 3: return 41 + STEP;
    case 4: return counter * 2 + STEP;
    case 5: return helper(61) * 3 + STEP;
    case 6: return 71 + STEP;
    default: return 81 + STEP;
    }
}

NOIPA int pushes(int x)
{
    int a = helper(x), b = helper(x + 1), c = helper(x + 2), d = helper(x + 3), e = helper(x + 4);
    return helper(a) + helper(b) + helper(c) + helper(d) + helper(e) + a * b + c * d * e + STEP;
}

NOIPA int big_frame(int x)
{
    volatile int values[3000];
    for (int i = 0; i < 3000; i++)
        values[i] = x;
    return values[0] + values[2999] + STEP;
}

NOIPA int thread_variable(int x)
{
    return own + x + STEP;
}

// A short conditional jump that ends beyond the fifth byte, but begins before it.
__attribute__((naked)) NOIPA int fifth_byte(int x)
{
    __asm__("test %edi, %edi\n"
            "jns 1f\n"
            "mov $-1, %eax\n"
            "ret\n"
            "1: lea (" DIGITS(STEP) " + 9)(%rdi), %eax\n"
            "cmpl $0, counter(%rip)\n"
            "ret");
}

NOIPA int many_arguments_of(int x)
{
    static int (*volatile with_seven)(int, int, int, int, int, int, int);
    (void)with_seven;
    return helper(x) * helper(x + 1) * helper(x + 2) + STEP;
}

NOIPA int address_of_data(int x)
{
    const volatile int *of = x >= 0 ? &counter : &stored;
    return *of + STEP;
}

NOIPA int park(void)
{
    stored = 0;
    while (next_order() != 'l') {
    }
    return STEP;
}

NOIPA function *address(int index)
{
    function *all[SHAPES] = { load_first, store_first, compare_first, call_first, call_at_once, jump_only,
                              jump_by_pointer, short_jump, loop, table, pushes, big_frame, thread_variable,
                              fifth_byte, many_arguments_of, address_of_data };
    return index >= 0 && index - STEP + STEP < SHAPES ? all[index] : (function *)(long)STEP;
}
