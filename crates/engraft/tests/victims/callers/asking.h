const char *ask(const char *what);
void *tail(const char *name);
const char *hold(void);
