// What the functions of part.c refer to, in another file, so that the compiler knows nothing of it.
#include "relaxed.h"

int level = 5;
__thread int seen = 30;

NOIPA int same(int n)
{
    return n;
}

function *hook = same;

NOIPA int apply(function *f, int n)
{
    return f(n);
}

NOIPA long address_of_level(void)
{
    return (long)&level;
}

NOIPA int *address_of_seen(void)
{
    return &seen;
}
