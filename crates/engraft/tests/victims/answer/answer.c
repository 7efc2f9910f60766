// A program that answers each line with what answer() says; a fix changes that.
#include <stdio.h>
#include <string.h>

int asked;

__attribute__((noinline)) void answer(const char *line, char *text, size_t size)
{
    snprintf(text, size, "old: %s, %d", line, ++asked);
}

int main(void)
{
    char line[100], text[200];
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = '\0';
        answer(line, text, sizeof text);
        puts(text);
    }
    return 0;
}
