// A plugin with the other half of the bug: "shout LENGTH TEXT" is an echo in capitals.
#include <ctype.h>

#include "session.h"

// The same mistake once more.
size_t shout(const struct session *session, size_t length, char *answer)
{
    const char *text = session->text;
    for (size_t i = 0; i < length; i++)
        answer[i] = (char)toupper((unsigned char)text[i]);
    return length;
}

static char tried[LONGEST_ANSWER];
static size_t tried_length;

// Runs while the plugin is being loaded, before anyone can use it, and so before any tool that
// waits for a library to be loaded could have patched it.
__attribute__((constructor)) static void try_it(void)
{
    struct session session = {.text = "plugin", .password = "password=from-the-plugin"};
    tried_length = shout(&session, LONGEST_ANSWER, tried);
}

const struct plugin plugin = {"shout", shout, tried, &tried_length};
