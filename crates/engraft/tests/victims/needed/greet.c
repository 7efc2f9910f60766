// The library, with the bug in greet().
#include "greet.h"

#include <stdio.h>

void greet(const char *name, char *text, size_t size)
{
    snprintf(text, size, "Goodbye, %s", name);
}
