// A program that is linked with libgreet.so; it answers each line with what greet() makes of it.
#include "greet.h"

#include <stdio.h>
#include <string.h>

int main(void)
{
    char line[100], text[200];
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = '\0';
        greet(line, text, sizeof text);
        puts(text);
    }
    return 0;
}
