// One chain of calls: a call of f1() and all that comes of it, until it returns.
#ifndef CHAIN_H
#define CHAIN_H

#define NOIPA __attribute__((noipa))

enum { MOST_CALLS = 64 };

struct chain {
    // How far down it goes (1 to 5), how often f2() goes on, whether f5() begins again.
    int depth, repeats, again;
    // Microseconds that f3() sleeps each time; or it waits for the word to leave.
    int nap, stays;
    // Which version of the functions ran, in the order of the calls.
    int calls, versions[MOST_CALLS];
};

typedef int function(struct chain *);

function f1, f2, f3, f4, f5;

// Never patched.
void record(struct chain *chain, int version);
void nap(struct chain *chain);
extern function *volatile by_pointer[5];

#endif
