// What the server and its plugins share.
#ifndef SESSION_H
#define SESSION_H

#include <stddef.h>

// One client's connection. The text that the client sent lies right before a password in memory.
struct session {
    char text[32];
    char password[32];
};

// The most that a client may ask for, and the size of the buffer that an answer is written to.
enum { LONGEST_ANSWER = 60 };

// What a plugin exports under the name "plugin".
struct plugin {
    const char *command;
    size_t (*run)(const struct session *session, size_t length, char *answer);
    // What the plugin's constructor got when it tried its own command.
    const char *tried;
    const size_t *tried_length;
};

#endif
