// A thread that can be inside of stay(), and does there what it is told.
#ifndef LODGERS_H
#define LODGERS_H

#define NOIPA __attribute__((noipa))

struct lodger {
    // What it waits with; see lodgers.c.
    const char *kind;
    // The order, 0 once it is carried out, and what came of it.
    volatile int order;
    volatile int answer;
    // Set as soon as it is where it was sent.
    volatile int inside;
};

// What the fix changes.
int a(void);
int stay(struct lodger *);

// What it does not change: waits for an order, carries it out, and returns it.
int next(struct lodger *);

#endif
