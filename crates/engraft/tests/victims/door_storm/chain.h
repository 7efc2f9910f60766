// One chain of calls: a call of f1() and all that comes of it, until it returns or is left.
#ifndef CHAIN_H
#define CHAIN_H

#ifdef __cplusplus
extern "C" {
#endif

#define NOIPA __attribute__((noipa))

enum { MOST_CALLS = 32 };

// How a chain ends.
enum way { RETURNS, JUMPS, THROWS, WAYS };

struct chain {
    // How far down it goes (1 to 4), and how long each call takes.
    int depth, work;
    enum way way;
    // Whether the thread is inside f1(), as f1() sees it.
    volatile int inside;
    // Which version of the functions ran, in the order of the calls.
    volatile int calls, versions[MOST_CALLS];
};

typedef int function(struct chain *);

function f1, f2, f3, f4;

// Never patched.
void record(struct chain *chain, int version);
void work(int length);
// Ends the chain in its way, if that is not by returning.
void leave(struct chain *chain);

#ifdef __cplusplus
}
#endif

#endif
