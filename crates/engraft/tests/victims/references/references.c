// The fix in fix.patch brings code that refers to all kinds of things of the running program.
//
// Commands, one a line:
//     add TEXT     parses TEXT and adds the number to the total
//     limit N      sets the global limit
//     pointers     "equal" if old and new code see the same address of add()
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOIPA __attribute__((noipa))

int limit = 100;
static int total;
static int calls;
static const char *unit = "coins";

static NOIPA int clamp(int n)
{
    return n > limit ? limit : n;
}

// The function with the bug: it takes anything that begins with a digit, and 0 for the rest.
NOIPA void add(const char *text, char *answer, size_t size)
{
    calls++;
    total += clamp(atoi(text));
    snprintf(answer, size, "total %d", total);
}

typedef void function(const char *text, char *answer, size_t size);

// What the program keeps from its start on; a patch must not make it look like another function.
static function *volatile kept = add;

static NOIPA function *current(void)
{
    return calls >= 0 ? add : NULL;
}

int main(void)
{
    char line[100], answer[100];
    int new_limit;
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = '\0';
        if (strncmp(line, "add ", 4) == 0) {
            kept(line + 4, answer, sizeof answer);
            puts(answer);
        } else if (sscanf(line, "limit %d", &new_limit) == 1) {
            limit = new_limit;
            puts(unit);
        } else if (strcmp(line, "pointers") == 0) {
            puts(kept == current() ? "equal" : "different");
        } else {
            puts("what?");
        }
    }
    return 0;
}
