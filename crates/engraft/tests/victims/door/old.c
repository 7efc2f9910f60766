#include "door.h"

#define VERSION 1

NOIPA int g(struct worker *worker)
{
    return worker->calls >= 0 ? VERSION : 0;
}

// Sleeps, and looks whether all that it calls is of its own version.
NOIPA int f(struct worker *worker)
{
    int version = VERSION;
    stay(worker, version);
    int during = worker->during ? worker->during(worker) : 0;
    int after = g(worker);
    return after == version && (during == 0 || during == version) ? version : -1;
}

NOIPA int jumped_to(struct worker *worker, int version)
{
    worker->calls++;
    return version == VERSION ? VERSION : -1;
}

// Its last call is a jump: where it arrives, the stack is as if the caller had called.
NOIPA int ends_in_jump(struct worker *worker)
{
    stay(worker, VERSION);
    return jumped_to(worker, VERSION);
}
