//! Code that the linker rewrote, because it knew where things are.

use engraft_build::Refusal;
use engraft_patch::{Object, RelocationTarget};

use crate::support::{Project, imports, names, patch, referenced};

/// `part.c` refers to what `other.c` has.
const OTHER: &str = "int other(int x) { return x * 3; }\nint level = 4;\n";
const PART: &str = "#ifndef FIRST\n#define FIRST other\n#endif\nint other(int);\nextern int level;\n\
    int use(int (*f)(int), int *p) { return f == other && p == &level; }\n\
    int tail(int x) { return x > 5 ? x * 7 : other(x); }\n\
    int part(int x) { return FIRST(x) + use(other, &level) * 9 + tail(x); }\n";
const EDITS: [(&str, &str, &str); 2] = [("part.c", "* 9", "* 10"), ("part.c", "x * 7", "x * 8")];

fn project(compile: &str, link: &str) -> Project {
    let makefile = format!(
        "program: main.o part.o other.o\n\t$(CC) -o $@ $^ -Wl,--build-id {link}\nCFLAGS += -fno-plt -fno-inline {compile} $(MORE)\n"
    );
    let files = [
        ("main.c", crate::support::MAIN),
        ("part.c", PART),
        ("other.c", OTHER),
    ];
    Project::with_files(&makefile, &files)
}

/// The addresses that the linker put into the code are found there, by instruction: there are no
/// symbols.
#[test]
fn addresses_in_a_stripped_program() {
    for (compile, link) in [
        ("-fPIE", "-pie"),
        ("-fPIC", "-pie"),
        ("-fno-pie", "-no-pie"),
        ("-fPIC", "-no-pie"),
        ("-fPIC -O0", "-pie"),
        ("-fPIC", "-pie -Wl,-z,call-nop=suffix-0x90"),
        ("-fPIC", "-pie -Wl,-z,call-nop=prefix-0x90"),
        ("-fPIC -Wa,-mrelax-relocations=no", "-pie"),
        ("-fPIC", "-pie -Wl,--no-relax"),
        ("-fPIC", "-static"),
    ] {
        let project = project(compile, link);
        let other = project.symbol("program", "other").0;
        project.run("strip", &["-o", "stripped", "program"]);
        let report = project.try_build(&EDITS, "stripped");
        let patch = patch(report.unwrap_or_else(|error| panic!("{compile} {link}: {error}")));
        let [object] = patch.objects.try_into().unwrap();
        assert_eq!(names(&object), ["part", "tail"], "{compile} {link}");
        assert!(imports(&object).is_empty(), "{compile} {link}");
        match referenced(&object, "other") {
            Some(address) => assert_eq!(address, other, "{compile} {link}"),
            // Not rewritten: by the slot of the program.
            None => assert!(
                referenced(&object, "other.got").is_some(),
                "{compile} {link}"
            ),
        }
    }
}

/// A rewritten call says what it calls.
#[test]
fn a_call_of_another_function() {
    let project = project("-fPIE", "-pie");
    project.run("make", &["-B", "MORE=-DFIRST=tail"]);
    let refusals = project.refusals(&EDITS, "program");
    assert!(
        matches!(refusals.as_slice(), [Refusal::CodeDiffers { function, .. }] if function == "part"),
        "{refusals:?}"
    );
}

/// A library's variable: the program has its distance from the thread pointer in a GOT entry.
#[test]
fn thread_local_variables_of_a_library() {
    let makefile = "program: main.o part.o libother.so\n\t$(CC) -o $@ main.o part.o -Wl,--build-id -L. -lother\n\
        libother.so: other.c\n\t$(CC) -shared -fPIC -o $@ $<\nCFLAGS += -fPIC -fno-plt\n";
    let part = "extern __thread int far;\nint part(int x) { return far + x * 9; }\n";
    let files = [
        ("main.c", crate::support::MAIN),
        ("part.c", part),
        ("other.c", "__thread int far = 3;\n"),
    ];
    let project = Project::with_files(makefile, &files);
    let object = project.build(&[("part.c", "x * 9", "x * 10")], "program");
    let relocations = project.run("readelf", &["-rW", "program"]);
    let entry = relocations
        .lines()
        .find(|line| line.contains("R_X86_64_TPOFF64") && line.contains(" far"))
        .unwrap();
    let entry = u64::from_str_radix(entry.split(' ').next().unwrap(), 16).unwrap();
    assert_eq!(referenced(&object, "far.tls"), Some(entry));
    // mov %fs:0, %rax; add far@gottpoff(%rip), %rax
    assert!(has_code(
        &object,
        &[0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0, 0x48, 0x03, 0x05]
    ));
    assert!(imports(&object).is_empty());
}

/// A call through a variable calls what the variable holds, and a program that does not have the
/// variable yet cannot get it.
#[test]
fn a_call_through_a_variable_of_a_library() {
    let makefile = "program: main.o part.o libother.so\n\t$(CC) -pie -o $@ main.o part.o -Wl,--build-id -L. -lother\n\
        libother.so: other.c\n\t$(CC) -shared -fPIC -o $@ $<\nCFLAGS += -fPIE\n";
    let part = "extern int (*far)(int);\nint part(int x) { return x * 9 + x / 7; }\n";
    let files = [
        ("main.c", crate::support::MAIN),
        ("part.c", part),
        (
            "other.c",
            "static int near(int x) { return x; }\nint (*far)(int) = near;\n",
        ),
    ];
    let project = Project::with_files(makefile, &files);
    let refusals = project.refusals(&[("part.c", "x * 9", "far(x) * 9")], "program");
    assert!(
        matches!(refusals.as_slice(), [Refusal::ImportByAddress { symbol, .. }] if symbol == "far"),
        "{refusals:?}"
    );
}

/// The symbol is that of the code that chooses among the functions of that name.
#[test]
fn a_function_of_a_static_program_that_is_chosen_at_start() {
    let makefile =
        "program: main.o part.o\n\t$(CC) -static -o $@ $^ -Wl,--build-id\nCFLAGS += -fno-builtin\n";
    let part = "#include <string.h>\nint part(int x) { return x * 9 + x / 7; }\n";
    let main = "#include <stdio.h>\nint part(int);\nint main(int c, char **v) { return puts(v[0]) + part(c); }\n";
    let project = Project::with_files(makefile, &[("main.c", main), ("part.c", part)]);
    let edit = [(
        "part.c",
        "x * 9",
        "x * 9 + (int)strlen(x ? \"one\" : \"none\")",
    )];
    let object = project.build(&edit, "program");
    let chooser = project
        .run("readelf", &["-sW", "program"])
        .lines()
        .find(|line| line.ends_with(" strlen") && line.contains("IFUNC"))
        .map(|line| line.split_whitespace().nth(1).unwrap().to_owned())
        .unwrap();
    let chooser = chooser.trim_start_matches('0');
    let slot = project
        .run("readelf", &["-rW", "program"])
        .lines()
        .find(|line| line.ends_with(chooser))
        .map(|line| u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap());
    assert!(slot.is_some());
    assert_eq!(referenced(&object, "strlen.got"), slot);
    assert_eq!(referenced(&object, "strlen"), None);
    let to_chooser = u64::from_str_radix(chooser, 16).unwrap();
    assert!(object.image.relocations.iter().all(|relocation| !matches!(
        &relocation.target,
        RelocationTarget::Object { address, .. } if address.0 == to_chooser
    )));
}

fn has_code(object: &Object, code: &[u8]) -> bool {
    object
        .image
        .text
        .windows(code.len())
        .any(|window| window == code)
}
