// A library with an IFUNC, whose resolver asks which() while the loader relocates.
int seen = -1;

__attribute__((noipa)) static int which(void)
{
    return 100;
}

static int first(void)
{
    return 100;
}

static int second(void)
{
    return 101;
}

static int (*resolve(void))(void)
{
    return which() == 100 ? first : second;
}

int answer(void) __attribute__((ifunc("resolve")));

__attribute__((constructor)) static void constructor(void)
{
    seen = answer();
}
