// Brings exceptions, and with them libgcc, into a program in C.
typedef int through_type(int (*call)(void));

static int throws(void)
{
    throw 42;
}

extern "C" const char *attempt(through_type *through)
{
    try {
        through(throws);
    } catch (int) {
        return "caught";
    }
    return "nothing was thrown";
}
