//! What cannot be patched is refused by name.

use engraft_build::Refusal;

use crate::support::{LIBRARY, PIE, Project};

#[test]
fn a_changed_initialiser() {
    let project = Project::new(
        PIE,
        "static int level = 3;\nint part(int x) { return level++ + x * 9; }\nint *leak(void) { return &level; }\n",
    );
    let refusals = project.refusals(&[("part.c", "level = 3", "level = 4")], "program");
    assert!(
        matches!(refusals.as_slice(), [Refusal::ChangedData { name, .. }] if name == "level"),
        "{refusals:?}"
    );
}

#[test]
fn a_changed_size() {
    let project = Project::new(
        PIE,
        "static int seen[4];\nint part(int x) { return seen[x & 3]++ + x * 9; }\n",
    );
    let refusals = project.refusals(&[("part.c", "seen[4]", "seen[8]")], "program");
    assert!(
        matches!(refusals.as_slice(), [Refusal::ChangedData { name, .. }] if name == "seen"),
        "{refusals:?}"
    );
}

#[test]
fn a_changed_table_that_an_unchanged_function_uses() {
    let project = Project::new(
        PIE,
        "static const int table[4] = { 5, 6, 7, 8 };
         __attribute__((noinline)) int other(int x) { return table[x & 3] * 2; }
         int part(int x) { return table[x & 3] + other(x); }\n",
    );
    let edits = [("part.c", "7, 8", "7, 9"), ("part.c", "+ other", "- other")];
    let refusals = project.refusals(&edits, "program");
    assert!(
        matches!(refusals.as_slice(), [Refusal::ChangedData { name, users, .. }]
            if name == "table" && users == &["other"]),
        "{refusals:?}"
    );
}

#[test]
fn a_changed_table_of_pointers() {
    let project = Project::new(
        LIBRARY,
        "static const char *const words[] = { \"a\", \"b\", \"c\" };
         const char *word(int x) { return words[x]; }
         int part(int x) { return x * 9 + 1; }\n",
    );
    let refusals = project.refusals(&[("part.c", "\"b\"", "\"d\"")], "libpart.so");
    assert!(
        matches!(refusals.as_slice(), [Refusal::ChangedData { name, users, .. }]
            if name == "words" && users == &["word"]),
        "{refusals:?}"
    );
}

#[test]
fn a_new_constructor() {
    let project = Project::new(PIE, "int x;\nint part(int y) { return x + y * 9; }\n");
    let new = "__attribute__((constructor)) static void begin(void) { x = 5; }\nint part(int y) { return x + y * 8";
    let refusals = project.refusals(
        &[("part.c", "int part(int y) { return x + y * 9", new)],
        "program",
    );
    assert!(
        refusals
            .iter()
            .any(|refusal| matches!(refusal, Refusal::LoaderCalls { .. })),
        "{refusals:?}"
    );
}

#[test]
fn a_new_thread_local_variable() {
    let project = Project::new(PIE, "int part(int y) { return y * 9 + 1; }\n");
    let new = "static __thread int depth;\nint part(int y) { depth++; return depth + y";
    let refusals = project.refusals(&[("part.c", "int part(int y) { return y", new)], "program");
    assert!(
        refusals
            .iter()
            .any(|r| matches!(r, Refusal::ThreadLocalPlace { symbol, .. } if symbol == "depth")),
        "{refusals:?}"
    );
}

#[test]
fn code_that_keeps_accounts() {
    for option in ["--coverage", "-fsanitize=address"] {
        let makefile = format!(
            "program: main.o part.o\n\t$(CC) {option} -o $@ $^ -Wl,--build-id\nCFLAGS += {option}\n"
        );
        let project = Project::new(&makefile, "int part(int x) { return x * 9 + 4; }\n");
        let refusals = project.refusals(&[("part.c", "+ 4", "+ 5")], "program");
        assert!(
            matches!(refusals.as_slice(), [Refusal::Instrumented { functions, option: found, .. }]
                if functions.contains(&"part".to_owned()) && found == option),
            "{refusals:?}"
        );
    }
}

/// The bytes behind it are padding.
#[test]
fn a_tiny_function_with_room_behind_it() {
    let project = Project::new(
        PIE,
        "__attribute__((noinline)) int tiny(void) { return 0; }\nint part(int x) { return tiny() + x; }\n",
    );
    let object = project.build(&[("part.c", "return 0", "return 77")], "program");
    let tiny = crate::support::function(&object, "tiny");
    assert_eq!(tiny.parts[0].code.len(), 5);
    assert!(tiny.parts[0].code.starts_with(&[0x31, 0xc0, 0xc3]));
}

#[test]
fn a_tiny_function() {
    let project = Project::new(
        &format!("{PIE}CFLAGS += -falign-functions=1\n"),
        "__attribute__((noinline)) int tiny(void) { return 0; }\nint part(int x) { return tiny() + x; }\n",
    );
    let refusals = project.refusals(&[("part.c", "return 0", "return 77")], "program");
    assert!(
        refusals.iter().any(|refusal| matches!(refusal,
            Refusal::TooShort { function, size: 3, minimum: 5 } if function == "tiny")),
        "{refusals:?}"
    );
}

#[test]
fn a_loop_into_the_entry() {
    let project = Project::new(
        &format!("{PIE}CFLAGS += -fno-align-loops\n"),
        "__attribute__((noinline)) int spin(volatile int *p) { int n = 0; do n++; while (--*p > 0); return n + 1; }
         int part(int x) { volatile int y = x; return spin(&y) + x; }\n",
    );
    let refusals = project.refusals(&[("part.c", "n + 1", "n + 2")], "program");
    assert!(
        matches!(refusals.as_slice(), [Refusal::JumpIntoEntry { function, .. }] if function == "spin"),
        "{refusals:?}"
    );
}

#[test]
fn a_binary_that_was_not_built_from_this_source() {
    let project = Project::new(
        PIE,
        "__attribute__((noinline)) int other(int x) { return x * 5 + 3; }\nint part(int x) { return other(x) * 9 + 4; }\n",
    );
    project.run("cp", &["program", "other-program"]);
    project.run("sed", &["-i", "s/other(x) \\* 9/other(x) * 7/", "part.c"]);
    project.run("make", &[]);
    project.run("cp", &["program", "wrong"]);
    project.run("sed", &["-i", "s/other(x) \\* 7/other(x) * 9/", "part.c"]);
    project.run("make", &[]);
    let refusals = project.refusals(&[("part.c", "+ 4", "+ 5")], "wrong");
    assert!(
        matches!(refusals.as_slice(), [Refusal::CodeDiffers { function, binary, .. }]
            if function == "part" && binary == "wrong"),
        "{refusals:?}"
    );
}

#[test]
fn a_string_that_differs_in_the_binary() {
    let project = Project::new(
        PIE,
        "#include <stdio.h>\nint part(int x) { puts(\"version 1\"); return x * 9 + 4; }\n",
    );
    project.run("sed", &["-i", "s/version 1/version 2/", "part.c"]);
    project.run("make", &[]);
    project.run("cp", &["program", "wrong"]);
    project.run("sed", &["-i", "s/version 2/version 1/", "part.c"]);
    project.run("make", &[]);
    let refusals = project.refusals(&[("part.c", "+ 4", "+ 5")], "wrong");
    assert!(
        matches!(refusals.as_slice(), [Refusal::CodeDiffers { mismatch, .. }]
            if mismatch.expected == "\"version 1\"" && mismatch.found == "\"version 2\""),
        "{refusals:?}"
    );
}

#[test]
fn a_function_that_the_linker_dropped() {
    let makefile = "program: main.o part.o\n\t$(CC) -Wl,--gc-sections -o $@ $^ -Wl,--build-id\nCFLAGS += -ffunction-sections\n";
    let project = Project::new(
        makefile,
        "int unused(int x) { return x * 5 + 3; }\nint part(int x) { return x * 9 + 4 * x * x; }\n",
    );
    let refusals = project.refusals(&[("part.c", "x * 5 + 3", "x * 5 + 4")], "program");
    assert!(
        matches!(refusals.as_slice(), [Refusal::FunctionNotInBinary { function, .. }]
            if function == "unused"),
        "{refusals:?}"
    );
}

#[test]
fn an_address_that_a_stripped_program_does_not_tell() {
    let project = Project::new(
        PIE,
        "int part(int x) { return x * 9 + 4; }\nint secret;\nint user(void) { return secret; }\n",
    );
    project.run("strip", &["-o", "stripped", "program"]);
    let new = "extern int secret;\nint part(int x) { return secret";
    let refusals = project.refusals(
        &[("part.c", "int part(int x) { return x * 9", new)],
        "stripped",
    );
    assert!(
        matches!(refusals.as_slice(), [Refusal::UnknownAddress { symbol, .. }] if symbol == "secret"),
        "{refusals:?}"
    );
}

#[test]
fn imported_data_that_is_new_to_a_program() {
    let makefile =
        "program: main.o part.o\n\t$(CC) -no-pie -o $@ $^ -Wl,--build-id\nCFLAGS += -fno-pie\n";
    let project = Project::new(
        makefile,
        "#include <stdio.h>\nint part(int x) { return x * 9 + 4; }\n",
    );
    let refusals = project.refusals(
        &[("part.c", "return x", "return stderr != 0 ? 1 : x")],
        "program",
    );
    assert!(
        refusals.is_empty() || matches!(refusals.as_slice(), [Refusal::ImportByAddress { .. }])
    );
    let refusals = project.refusals(
        &[("part.c", "return x", "fflush(stderr); return x")],
        "program",
    );
    assert!(
        matches!(refusals.as_slice(), [Refusal::ImportByAddress { symbol, .. }] if symbol == "stderr"),
        "{refusals:?}"
    );
}

#[test]
fn assembly() {
    let makefile = "program: main.o part.o\n\t$(CC) -o $@ $^ -Wl,--build-id\n";
    let part = ".globl part\n.type part, @function\npart:\n\tlea 1(%rdi), %eax\n\tret\n.section .note.GNU-stack,\"\",@progbits\n";
    let main = "int part(int);\nint main(int c, char **v) { (void)v; return part(c); }\n";
    let project = Project::with_files(makefile, &[("main.c", main), ("part.S", part)]);
    let refusals = project.refusals(&[("part.S", "lea 1", "lea 2")], "program");
    assert!(
        matches!(refusals.as_slice(), [Refusal::Assembly { .. }]),
        "{refusals:?}"
    );
}

#[test]
fn a_function_with_several_reasons_stands_once() {
    let project = Project::new(
        PIE,
        "int part(int x) { return x * 9 + 4; }\nint first, second;\nint *user(int x) { return x ? &first : &second; }\n",
    );
    project.run("strip", &["-o", "stripped", "program"]);
    let new = "extern int first, second, third;\n\
        int part(int x) { return first + second * 3 + first * x + second + x";
    let edits = [("part.c", "int part(int x) { return x * 9", new)];
    let error = project.try_build(&edits, "stripped").unwrap_err();
    let words = error.to_string();
    assert_eq!(words.matches("part uses").count(), 1, "{words}");
    for variable in ["first", "second"] {
        assert_eq!(words.matches(variable).count(), 1, "{words}");
    }
}

/// The compiler keeps what is unlikely in a part of its own, `part.cold`.
#[test]
fn a_function_stands_once_if_its_cold_part_differs_too() {
    let part = "#include <stdlib.h>\n\
        __attribute__((cold, noipa)) int fail(int x) { return x * 5 + 3; }\n\
        __attribute__((noinline)) int more(volatile int *p) {\n\
          return p[0] * p[1] * 11 + p[2] * p[3] * 13 + p[4] * p[5] * 17 + p[6] * p[7] * 19; }\n\
        __attribute__((noinline)) int part(int x) {\n\
          volatile int y[8] = { x };\n\
          if (__builtin_expect(x == 77, 0)) { y[1] = fail(x + 1); y[2] = fail(y[1]); abort(); }\n\
          return more(y) * 9 + 4; }\n";
    let project = Project::new(PIE, part);
    let found = project.symbols("program", "part");
    assert_eq!(found.len(), 2, "the compiler made no cold part");
    project.run(
        "sed",
        &["-i", "s/\\* 9 + 4/* 7 + 4/; s/x + 1/x + 2/", "part.c"],
    );
    project.run("make", &[]);
    project.run("cp", &["program", "wrong"]);
    project.run(
        "sed",
        &["-i", "s/\\* 7 + 4/* 9 + 4/; s/x + 2/x + 1/", "part.c"],
    );
    project.run("make", &[]);
    let refusals = project.refusals(&[("part.c", "+ 4", "+ 5")], "wrong");
    assert!(
        matches!(refusals.as_slice(), [Refusal::CodeDiffers { function, .. }] if function == "part"),
        "{refusals:?}"
    );
}

#[test]
fn a_source_that_is_compiled_twice_for_the_linker_stands_once() {
    let makefile = "program: main.o part.o again.o\n\t$(CC) -flto -O2 -o $@ main.o part.o -Wl,--build-id\n\
        again.o: part.c\n\t$(CC) $(CFLAGS) -DAGAIN -c -o $@ part.c\nCFLAGS += -flto\n";
    let part = "int part(int x) { return x * 9 + 4; }\n\
        #ifdef AGAIN\nint other(int x) { return part(x) * 9; }\n#endif\n";
    let project = Project::new(makefile, part);
    let refusals = project.refusals(&[("part.c", "* 9", "* 10")], "program");
    assert!(
        matches!(refusals.as_slice(), [Refusal::LinkTimeOptimisation { functions, .. }]
            if functions.iter().filter(|name| *name == "part").count() == 1),
        "{refusals:?}"
    );
}
