#ifndef SHAPES_H
#define SHAPES_H

#define NOIPA __attribute__((noinline, noclone))

typedef int function(int);

enum { SHAPES = 16 };

// All that the fix changes; each answers by the step more then.
function load_first, store_first, compare_first, call_first, call_at_once, jump_only, jump_by_pointer, short_jump,
    loop, table, pushes, big_frame, thread_variable, fifth_byte, many_arguments_of, address_of_data;
// Whoever is inside carries out orders there, and answers the step.
int park(void);
// The addresses of the functions, as whoever runs it sees them.
function *address(int index);

// Not changed: they wait for an order, and call each shape.
int next_order(void);
int helper(int);
extern function *volatile by_pointer;
extern volatile int counter, stored;
extern _Thread_local int own;

#endif
