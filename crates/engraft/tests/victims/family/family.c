// A server that forks.
//
// Commands, one a line:
//     ask          "a=N"
//     fork         forks a child that answers: its number
//     ask child    what the last child answers: "a=N"
//     vfork        a thread makes a child by vfork, which holds it until "release"; answers when the
//                  child runs
//     release      lets that child end; answers when the thread goes on
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

__attribute__((noipa)) int a(void)
{
    return 100;
}

// A call that the compiler cannot look through.
static int (*volatile call_a)(void) = a;

static int questions[2], answers[2], held[2], reports[2];

static pid_t make_child(void)
{
    if (pipe(questions) || pipe(answers))
        return -1;
    pid_t child = fork();
    if (child)
        return child;
    char byte;
    close(questions[1]);
    while (read(questions[0], &byte, 1) == 1) {
        int answer = call_a();
        if (write(answers[1], &answer, sizeof answer) != sizeof answer)
            break;
    }
    _exit(0);
}

static int ask_child(void)
{
    int answer;
    if (write(questions[1], "?", 1) != 1 || read(answers[0], &answer, sizeof answer) != sizeof answer)
        return -1;
    return answer;
}

static void *hold(void *unused)
{
    char byte = 'x';
    if (vfork() == 0) {
        if (write(reports[1], &byte, 1) == 1)
            _exit(read(held[0], &byte, 1) != 1);
        _exit(1);
    }
    if (write(reports[1], &byte, 1) != 1)
        perror("write");
    return unused;
}

static void await_report(const char *answer)
{
    char byte;
    puts(read(reports[0], &byte, 1) == 1 ? answer : "failed");
}

int main(void)
{
    char line[100];
    pthread_t thread;
    if (pipe(held) || pipe(reports))
        return 1;
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        if (strcmp(line, "ask\n") == 0)
            printf("a=%d\n", call_a());
        else if (strcmp(line, "fork\n") == 0)
            printf("%d\n", (int)make_child());
        else if (strcmp(line, "ask child\n") == 0)
            printf("a=%d\n", ask_child());
        else if (strcmp(line, "vfork\n") == 0 && pthread_create(&thread, NULL, hold, NULL) == 0)
            await_report("held");
        else if (strcmp(line, "release\n") == 0 && write(held[1], "r", 1) == 1)
            await_report("released");
        else
            puts("what?");
    }
    return 0;
}
