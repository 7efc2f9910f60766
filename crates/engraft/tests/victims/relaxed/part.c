// Functions with references that a linker rewrites. All have the answer's step in them.
#include "relaxed.h"

#define STEP 0

__thread int asked;
static __thread int first = 1, second = 2;

NOIPA int calls(int n)
{
    return same(n) + STEP;
}

NOIPA int jumps(int n)
{
    return same(n + STEP);
}

NOIPA int takes(int n)
{
    return apply(same, n + STEP);
}

NOIPA int follows(int n)
{
    return hook(n) + STEP;
}

NOIPA int compares(function *f, int n)
{
    return f == same ? n + STEP : -1;
}

NOIPA int computes(long n)
{
    return (int)(n + STEP + (long)&level - address_of_level());
}

NOIPA int tests(unsigned long mask, int n)
{
    if (mask & (unsigned long)&level)
        return same(-1);
    return n + STEP + (int)(mask >> 63) - 1;
}

NOIPA int looks_for_absent(int n)
{
    return absent ? -1 : n + STEP;
}

NOIPA int thread_locals(int n)
{
    seen += n;
    first += n;
    second -= n;
    return &seen == address_of_seen() ? seen + first + second - 33 - n + STEP : -1;
}

NOIPA int asks(int n)
{
    asked++;
    return n + STEP;
}

NOIPA int counts(const char *text, int n)
{
    return text[0] ? n + STEP : -1;
}
