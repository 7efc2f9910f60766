//! Which functions are found to be changed.

use crate::support::{LIBRARY, NO_PIE, PIE, Project, function, names, patch, referenced};
use engraft_build::{BuildOutcome, build};

const PART: &str = "
#include <stdio.h>
static int calls;
static __attribute__((noinline)) int helper(int x) { calls++; return x * 3 + 1; }
__attribute__((noinline)) int other(int x) { return helper(x) ^ helper(x + 1) ^ calls; }
int part(int x) {
    if (x > 100) return -1;
    return helper(x) + other(x);
}
";

#[test]
fn one_function_in_every_kind_of_binary() {
    for (makefile, binary) in [
        (PIE, "program"),
        (NO_PIE, "program"),
        (LIBRARY, "libpart.so"),
    ] {
        let project = Project::new(makefile, PART);
        let object = project.build(&[("part.c", "x > 100", "x > 99 || x < -7")], binary);
        assert_eq!(names(&object), ["part"], "{makefile}");
        let part = function(&object, "part");
        let (address, size) = project.symbol(binary, "part");
        assert_eq!(part.parts[0].address.0, address);
        assert_eq!(part.parts[0].code.len() as u64, size);
        assert_eq!(
            referenced(&object, "helper"),
            Some(project.symbol(binary, "helper").0)
        );
        assert_eq!(object.file_name, binary);
        assert!(!object.image.address_escapes);
    }
}

#[test]
fn the_users_tree_is_not_touched() {
    let project = Project::new(PIE, PART);
    let before = project.run("ls", &["-l", "--full-time"]);
    project.build(&[("part.c", "x > 100", "x > 99")], "program");
    assert_eq!(project.run("ls", &["-l", "--full-time"]), before);
}

#[test]
fn a_tree_that_was_not_built_yet() {
    let project = Project::new(PIE, PART);
    project.run("mv", &["program", "../program"]);
    project.run("rm", &["main.o", "part.o"]);
    let object = project.build(&[("part.c", "x > 100", "x > 99")], "../program");
    assert_eq!(names(&object), ["part"]);
}

#[test]
fn a_static_function() {
    let project = Project::new(PIE, PART);
    let object = project.build(&[("part.c", "x * 3 + 1", "x * 5 + 2")], "program");
    assert_eq!(names(&object), ["helper"]);
    assert_eq!(
        referenced(&object, "calls"),
        Some(project.symbol("program", "calls").0)
    );
}

#[test]
fn an_inlined_static_changes_its_callers() {
    let project = Project::new(
        PIE,
        "static inline int twice(int x) { return x * 2; }
         __attribute__((noinline)) int a(int x) { return twice(x) + 17; }
         __attribute__((noinline)) int b(int x) { return x - 5; }
         int part(int x) { return a(x) * b(x) + twice(x); }\n",
    );
    let object = project.build(&[("part.c", "x * 2", "x * 2 + 1")], "program");
    assert_eq!(names(&object), ["a", "part"]);
}

#[test]
fn two_files_with_a_static_of_the_same_name() {
    let text = |number: u32, name: &str| {
        format!(
            "static int state_{name};
             static __attribute__((noinline)) int step(int x) {{ state_{name}++; return x * {number} + 1; }}
             int {name}(int x) {{ return step(x) + step(x + 1) + state_{name}; }}\n"
        )
    };
    let main = "int one(int); int two(int);\nint main(int c, char **v) { (void)v; return one(c) + two(c); }\n";
    let makefile = "program: main.o one.o two.o\n\t$(CC) -o $@ $^ -Wl,--build-id\n";
    let files = [
        ("main.c", main),
        ("one.c", &text(7, "one")),
        ("two.c", &text(9, "two")),
    ];
    let project = Project::with_files(makefile, &files);
    let object = project.build(&[("two.c", "* 9 + 1", "* 11 + 2")], "program");
    assert_eq!(names(&object), ["step"]);
    let steps = project.symbols("program", "step");
    assert_eq!(steps.len(), 2);
    let address = function(&object, "step").parts[0].address.0;
    assert!(steps.iter().any(|&(symbol, _)| symbol == address));
    // The one of two.c is the one that uses two.c's variable.
    let state = referenced(&object, "state_two").unwrap();
    assert_eq!(state, project.symbol("program", "state_two").0);
    let disassembly = project.run(
        "objdump",
        &["-d", &format!("--start-address={address}"), "program"],
    );
    assert!(
        disassembly
            .lines()
            .take(15)
            .any(|line| line.contains("<state_two>")),
        "{disassembly}"
    );
}

#[test]
fn a_stripped_program_and_a_stripped_library() {
    for (makefile, binary) in [(PIE, "program"), (LIBRARY, "libpart.so")] {
        let project = Project::new(makefile, PART);
        let helper = project.symbol(binary, "helper");
        let calls = project.symbol(binary, "calls").0;
        project.run("strip", &["-o", "stripped", binary]);
        let object = project.build(&[("part.c", "x * 3 + 1", "x * 5 + 2")], "stripped");
        assert_eq!(names(&object), ["helper"]);
        assert_eq!(function(&object, "helper").parts[0].address.0, helper.0);
        assert_eq!(referenced(&object, "calls"), Some(calls));
    }
}

#[test]
fn line_numbers_are_no_change() {
    let project = Project::new(
        PIE,
        "#include <assert.h>
         __attribute__((noipa)) int first(int x) { return x * 7 + 1; }
         __attribute__((noinline)) int second(int x) { assert(x > 0); return x * 2; }
         int part(int x) { assert(x < 9); return first(x) + second(x); }\n",
    );
    let object = project.build(
        &[(
            "part.c",
            "return x * 7 + 1;",
            "\n\n if (x > 5)\n x--;\n return x * 7 + 1;",
        )],
        "program",
    );
    assert_eq!(names(&object), ["first"]);
}

#[test]
fn a_comment_is_no_change() {
    let project = Project::new(PIE, PART);
    let report = project.try_build(
        &[("part.c", "return -1;", "/* no */ return -1;")],
        "program",
    );
    assert!(matches!(report.unwrap().outcome, BuildOutcome::NoChange));
}

#[test]
fn a_header_change_reaches_every_object() {
    let makefile =
        "program: main.o part.o\n\t$(CC) -o $@ $^ -Wl,--build-id\nmain.o part.o: limit.h\n";
    let main = "#include \"limit.h\"\nint part(int);\nint main(int c, char **v) { (void)v; return c > LIMIT ? 1 : part(c); }\n";
    let part = "#include \"limit.h\"\nint part(int x) { return x > LIMIT ? -1 : x * 7; }\n";
    let files = [
        ("main.c", main),
        ("part.c", part),
        ("limit.h", "#define LIMIT 100\n"),
    ];
    let project = Project::with_files(makefile, &files);
    let object = project.build(&[("limit.h", "100", "99")], "program");
    assert_eq!(names(&object), ["main", "part"]);
}

#[test]
fn one_object_in_two_binaries() {
    let makefile = "all: program libpart.so\nprogram: main.o part.o\n\t$(CC) -o $@ $^ -Wl,--build-id\nlibpart.so: part.o\n\t$(CC) -shared -o $@ $^ -Wl,--build-id\nCFLAGS += -fPIC\n";
    let project = Project::new(makefile, PART);
    let fix = project.fix(&[("part.c", "x > 100", "x > 99")]);
    let patch = patch(build(&project.request(&fix, &["program", "libpart.so"])).unwrap());
    assert_eq!(patch.objects.len(), 2);
    for (object, binary) in patch.objects.iter().zip(["program", "libpart.so"]) {
        assert_eq!(object.file_name, binary);
        let address = function(object, "part").parts[0].address.0;
        assert_eq!(address, project.symbol(binary, "part").0);
    }
}

#[test]
fn a_cold_part_belongs_to_its_function() {
    let project = Project::new(
        PIE,
        "#include <stdio.h>
         #include <stdlib.h>
         __attribute__((cold, noinline, noreturn)) void fail(int x) { printf(\"%d\\n\", x); abort(); }
         int part(int x) {
             int sum = 0;
             for (int i = 0; i < x; i++) { sum += i * x; if (sum == 77) fail(sum + i); }
             return sum * 3;
         }\n",
    );
    let object = project.build(&[("part.c", "sum * 3", "sum * 5")], "program");
    let part = function(&object, "part");
    let addresses: Vec<_> = part.parts.iter().map(|part| part.address.0).collect();
    let mut symbols: Vec<_> = project
        .symbols("program", "part")
        .iter()
        .map(|s| s.0)
        .collect();
    assert_eq!(symbols.len(), 2, "gcc makes a cold part");
    symbols.sort_by_key(|&address| address != addresses[0]);
    assert_eq!(addresses, symbols);
}

#[test]
fn one_source_compiled_twice_for_one_binary() {
    let makefile = "program: main.o one.o two.o\n\t$(CC) -o $@ $^ -Wl,--build-id\n\
        one.o: part.c\n\t$(CC) $(CFLAGS) -DNAME=one -DBY=3 -c -o $@ part.c\n\
        two.o: part.c\n\t$(CC) $(CFLAGS) -DNAME=two -DBY=7 -c -o $@ part.c\n";
    let main = "int one(int); int two(int);\nint main(int c, char **v) { (void)v; return one(c) + two(c); }\n";
    let part = "static __attribute__((noipa)) int scale(int x) { return x * BY + 1; }\nint NAME(int x) { return scale(x) * x + BY; }\n";
    let project = Project::with_files(makefile, &[("main.c", main), ("part.c", part)]);
    let object = project.build(&[("part.c", "* x + BY", "* x - BY")], "program");
    assert_eq!(names(&object), ["one", "two"]);
    let object = project.build(&[("part.c", "x * BY + 1", "x * BY - 1")], "program");
    assert_eq!(names(&object), ["scale", "scale"]);
}

#[test]
fn one_source_compiled_for_a_static_and_a_shared_library() {
    let makefile = "all: libpart.so static.o\nlibpart.so: part.c\n\
        \t$(CC) $(CFLAGS) -fPIC -c -o shared.o part.c\n\t$(CC) -shared -o $@ shared.o -Wl,--build-id\n\
        static.o: part.c\n\t$(CC) $(CFLAGS) -c -o $@ part.c\n";
    let project = Project::new(makefile, PART);
    let edits = [
        ("part.c", "x > 100", "x > 99"),
        ("part.c", "x * 3 + 1", "x * 5 + 2"),
    ];
    let object = project.build(&edits, "libpart.so");
    assert_eq!(names(&object), ["helper", "part"]);
}

#[test]
fn code_that_a_stripped_program_has_twice_is_told_by_its_users() {
    let text = |by: u32, name: &str| {
        format!(
            "static int state;
             static __attribute__((noipa)) int step(int x) {{ state++; return x * 7 + 1; }}
             int {name}(int x) {{ return step(x) * {by} + step(x + 1) + state; }}\n"
        )
    };
    let main = "int one(int); int two(int);\nint main(int c, char **v) { (void)v; return one(c) + two(c); }\n";
    let makefile = "program: main.o one.o two.o\n\t$(CC) -o $@ $^ -Wl,--build-id\n";
    let files = [
        ("main.c", main),
        ("one.c", &text(11, "one")),
        ("two.c", &text(13, "two")),
    ];
    let project = Project::with_files(makefile, &files);
    let steps = project.symbols("program", "step");
    let (two, _) = project.symbol("program", "two");
    // The link editor takes the files in order.
    let expected = steps
        .iter()
        .map(|step| step.0)
        .filter(|&step| step < two)
        .max()
        .unwrap();
    project.run("strip", &["-o", "stripped", "program"]);
    let object = project.build(&[("two.c", "x * 7 + 1", "x * 9 + 2")], "stripped");
    assert_eq!(function(&object, "step").parts[0].address.0, expected);
}
