#define NOIPA __attribute__((noipa))

typedef int function(int);

// other.c
extern int level;
extern function *hook;
extern __thread int seen;
int same(int n);
int apply(function *f, int n);
long address_of_level(void);
int *address_of_seen(void);
extern int absent(int n) __attribute__((weak));

// part.c
extern __thread int asked;
int calls(int n);
int jumps(int n);
int takes(int n);
int follows(int n);
int compares(function *f, int n);
int computes(long n);
int tests(unsigned long mask, int n);
int looks_for_absent(int n);
int thread_locals(int n);
int asks(int n);
int counts(const char *text, int n);
