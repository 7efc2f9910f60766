#ifdef __cplusplus
extern "C" {
#endif

// Calls it, and returns something more than it does.
int through(int (*call)(void));
// The same for callee().
int direct(void);
// The same for a call, after which it tidies up, whatever happens.
int tidy(int (*call)(void), int *tidied);
// Writes a byte to one end, and sleeps until one can be read from the other.
int rest(int to, int from);
// Returns 1 or throws.
int callee(void);

#ifdef __cplusplus
}
#endif
