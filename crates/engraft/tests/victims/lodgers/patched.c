// The functions that the fix changes, both at once.
#include "lodgers.h"

NOIPA int a(void)
{
    return 100;
}

// Carries out orders until it is told to leave.
NOIPA int stay(struct lodger *lodger)
{
    int order, version = 100;
    lodger->inside = 1;
    do
        order = next(lodger);
    while (order != 'l');
    return version;
}
