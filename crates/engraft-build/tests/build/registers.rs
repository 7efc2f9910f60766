//! Callers that know which registers a function leaves alone (gcc's -fipa-ra).
//!
//! Such a caller keeps values in registers that the ABI would let the function overwrite. When the
//! fixed function overwrites them, the compiler gives the caller other code too, also where another
//! function stands between them. So the caller is a changed function, and comes with the same
//! patch. What is the same in both objects is right with the fixed function.

use crate::support::{PIE, Project, names};

const PART: &str = "
int shared;
__attribute__((noinline)) static int inner(int a) { return a * 7 + shared; }
__attribute__((noinline)) static int middle(int a) { return inner(a + 1) ^ 5; }
__attribute__((noinline)) static int direct(int a, int b, int c) { return inner(a) + b * c; }
__attribute__((noinline)) static int indirect(int a, int b, int c) { return middle(a) + b * c; }
int part(int x) { return direct(x, x + 1, x + 2) + indirect(x, x + 3, x + 4); }
";
const EDIT: (&str, &str, &str) = (
    "part.c",
    "return a * 7",
    "__asm__ volatile(\"xor %%esi,%%esi\\n xor %%edx,%%edx\" ::: \"rsi\", \"rdx\"); return a * 7",
);

#[test]
fn callers_that_rely_on_registers_of_the_old_function_change_with_it() {
    let project = Project::new(PIE, PART);
    let object = project.build(&[EDIT], "program");
    assert_eq!(names(&object), ["direct", "indirect", "inner", "part"]);
    // Without that knowledge, no caller depends on it.
    let makefile = format!("CPPFLAGS += -fno-ipa-ra\n{PIE}");
    let project = Project::new(&makefile, PART);
    let object = project.build(&[EDIT], "program");
    assert_eq!(names(&object), ["inner"]);
}
