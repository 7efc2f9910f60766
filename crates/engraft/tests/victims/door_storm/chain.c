// The functions that the patch changes, all four at once. f1() does not return before all others have.
#include "chain.h"

#ifndef VERSION
#define VERSION 1
#endif

NOIPA int f1(struct chain *chain)
{
    record(chain, VERSION);
    chain->inside = 1;
    work(chain->work);
    int sum = chain->depth > 1 ? f2(chain) + 1 : 1;
    work(chain->work);
    chain->inside = 0;
    return sum;
}

// Calls twice, so that there is a time in between.
NOIPA int f2(struct chain *chain)
{
    record(chain, VERSION);
    int sum = chain->depth > 2 ? f3(chain) : 1;
    work(chain->work);
    return sum + f4(chain);
}

// The last call is a jump.
NOIPA int f3(struct chain *chain)
{
    record(chain, VERSION);
    work(chain->work);
    return f4(chain);
}

NOIPA int f4(struct chain *chain)
{
    record(chain, VERSION);
    if (chain->depth > 3)
        leave(chain);
    return 1;
}
