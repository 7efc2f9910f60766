// A small server with a bug, for the demo. Several threads answer clients on a Unix socket, one
// command and one answer a line:
//
//     echo LENGTH TEXT    sends the first LENGTH bytes of TEXT back
//     load FILE           loads a plugin, which brings one more command
//     tried               what the plugin's constructor got from that command
//
// usage: server SOCKET THREADS. It ends when its stdin does.
#include <ctype.h>
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "session.h"

static int listener;
static const struct plugin *plugin;

// The bug: it believes the client's LENGTH. Heartbleed was this mistake.
static size_t echo(const struct session *session, size_t length, char *answer)
{
    memcpy(answer, session->text, length);
    return length;
}

static size_t tried(const struct session *session, size_t length, char *answer)
{
    (void)session;
    (void)length;
    if (!plugin)
        return 0;
    memcpy(answer, plugin->tried, *plugin->tried_length);
    return *plugin->tried_length;
}

static const struct command {
    const char *name;
    size_t (*run)(const struct session *session, size_t length, char *answer);
} commands[] = {{"echo", echo}, {"tried", tried}};

// Sends an answer as one line; bytes that cannot be shown become dots.
static void reply(FILE *client, const char *answer, size_t length)
{
    for (size_t i = 0; i < length; i++)
        putc(isprint((unsigned char)answer[i]) ? answer[i] : '.', client);
    putc('\n', client);
    fflush(client);
}

static void load(FILE *client, const char *file)
{
    void *library = dlopen(file, RTLD_NOW);
    const struct plugin *loaded = library ? dlsym(library, "plugin") : NULL;
    if (loaded)
        plugin = loaded;
    const char *answer = loaded ? "loaded" : dlerror();
    reply(client, answer, strlen(answer));
}

static void handle(FILE *client, const char *line)
{
    struct session session = {.text = "", .password = "password=swordfish"};
    char name[16] = "", file[256] = "", answer[LONGEST_ANSWER];
    size_t length = 0;

    if (sscanf(line, "load %255s", file) == 1) {
        load(client, file);
        return;
    }
    sscanf(line, "%15s %zu %31s", name, &length, session.text);
    if (length > LONGEST_ANSWER)
        length = LONGEST_ANSWER;
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        if (strcmp(name, commands[i].name) == 0) {
            reply(client, answer, commands[i].run(&session, length, answer));
            return;
        }
    }
    if (plugin && strcmp(name, plugin->command) == 0)
        reply(client, answer, plugin->run(&session, length, answer));
    else
        reply(client, "what?", 5);
}

static void *serve(void *unused)
{
    char line[300];
    for (;;) {
        int connection = accept(listener, NULL, NULL);
        if (connection < 0)
            continue;
        FILE *in = fdopen(connection, "r"), *out = fdopen(dup(connection), "w");
        while (fgets(line, sizeof line, in))
            handle(out, line);
        fclose(in);
        fclose(out);
    }
    return unused;
}

int main(int argc, char **argv)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (argc != 3 || strlen(argv[1]) >= sizeof address.sun_path)
        return 2;
    strcpy(address.sun_path, argv[1]);
    signal(SIGPIPE, SIG_IGN);
    listener = socket(AF_UNIX, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 64)) {
        perror(argv[1]);
        return 1;
    }
    for (int i = atoi(argv[2]); i > 0; i--) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, serve, NULL))
            return 1;
    }
    puts("ready");
    fflush(stdout);
    while (getchar() != EOF) {
    }
    return 0;
}
