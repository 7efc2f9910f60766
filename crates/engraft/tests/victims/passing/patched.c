// Functions that know nothing of exceptions, and get patched.
#include "patched.h"
#include <unistd.h>

__attribute__((noipa)) int through(int (*call)(void))
{
    return call() + 100;
}

// So short that the call is among the bytes that a jump at its entry replaces.
__attribute__((noipa)) int direct(void)
{
    return callee() + 10;
}

__attribute__((noipa)) int rest(int to, int from)
{
    char byte = 'i';
    return write(to, &byte, 1) == 1 && read(from, &byte, 1) == 1;
}
