// A program under a debugger: the parent traces the child as a debugger would, and keeps doing so.
// Its first line is the child's process id; the child does nothing. Both end when stdin does.
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

__attribute__((noipa)) int answer(void)
{
    return 41;
}

int main(void)
{
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            answer() == 0 ? 0 : pause();
    }
    if (ptrace(PTRACE_SEIZE, child, NULL, NULL))
        return 1;
    printf("%d\n", child);
    fflush(stdout);
    while (getchar() != EOF) {
    }
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    return 0;
}
