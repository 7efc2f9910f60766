// The functions that the patches change, all five at once: a thread must never see two versions in
// one chain. Each does something with what the next one returned, so that no call is a jump.
#include "chain.h"

#ifndef VERSION
#define VERSION 1
#endif

NOIPA int f1(struct chain *chain)
{
    record(chain, VERSION);
    return chain->depth > 1 ? f2(chain) + 1 : 1;
}

// Goes on more than once: in between none of the others is on the stack.
NOIPA int f2(struct chain *chain)
{
    int sum = 0;
    record(chain, VERSION);
    for (int i = 0; i < chain->repeats && chain->depth > 2; i++)
        sum += by_pointer[2](chain);
    return sum + 1;
}

// Sleeps with the others above it, before and after the call.
NOIPA int f3(struct chain *chain)
{
    int sum = 1;
    record(chain, VERSION);
    nap(chain);
    if (chain->depth > 3)
        sum += f4(chain);
    nap(chain);
    record(chain, VERSION);
    return sum;
}

NOIPA int f4(struct chain *chain)
{
    record(chain, VERSION);
    return chain->depth > 4 ? by_pointer[4](chain) + f5(chain) : 1;
}

// The last one, or the beginning of the same once more.
NOIPA int f5(struct chain *chain)
{
    record(chain, VERSION);
    if (chain->again == 0)
        return 1;
    chain->again--;
    return by_pointer[0](chain) + 1;
}
