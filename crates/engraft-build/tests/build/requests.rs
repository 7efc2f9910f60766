//! Requests, tools and builds that fail.

use std::ffi::OsString;
use std::fs;

use engraft_build::{BinaryError, BuildError, FixError, Stage, build};

use crate::support::{PIE, Project, names, patch};

const PART: &str = "int part(int x) { return x * 9 + 4; }\n";
const EDIT: [(&str, &str, &str); 1] = [("part.c", "x * 9", "x * 10")];

fn command(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

#[test]
fn a_fix_that_does_not_apply() {
    let project = Project::new(PIE, PART);
    let fix = project.fix(&EDIT);
    fs::write(
        project.file("part.c"),
        "int part(int x) { return 0 * x; }\n",
    )
    .unwrap();
    let error = build(&project.request(&fix, &["program"])).unwrap_err();
    assert!(
        matches!(error, BuildError::Fix(FixError::DoesNotApply { .. })),
        "{error}"
    );
}

#[test]
fn a_fix_that_is_in_the_source_already() {
    let project = Project::new(PIE, PART);
    let fix = project.fix(&EDIT);
    fs::write(project.file("part.c"), PART.replace("x * 9", "x * 10")).unwrap();
    let error = build(&project.request(&fix, &["program"])).unwrap_err();
    assert!(
        matches!(error, BuildError::Fix(FixError::AlreadyApplied { .. })),
        "{error}"
    );
}

#[test]
fn a_fix_that_is_no_diff() {
    let project = Project::new(PIE, PART);
    let fix = project.file("part.c");
    let error = build(&project.request(&fix, &["program"])).unwrap_err();
    assert!(
        matches!(
            error,
            BuildError::Fix(FixError::ChangesNothing { .. } | FixError::DoesNotApply { .. })
        ),
        "{error}"
    );
    let error = build(&project.request(&project.file("none"), &["program"])).unwrap_err();
    assert!(
        matches!(error, BuildError::Fix(FixError::Unreadable { .. })),
        "{error}"
    );
}

#[test]
fn a_fix_without_path_prefixes() {
    let project = Project::new(PIE, PART);
    let fix = project.fix(&EDIT);
    let text = fs::read_to_string(&fix).unwrap();
    fs::write(
        &fix,
        text.replace("--- source/", "--- ")
            .replace("+++ new/", "+++ "),
    )
    .unwrap();
    let report = build(&project.request(&fix, &["program"])).unwrap();
    assert_eq!(patch(report).name, "fix");
}

#[test]
fn a_build_that_fails() {
    let project = Project::new(PIE, PART);
    let error = project
        .try_build(&[("part.c", "x * 9", "y * 9")], "program")
        .unwrap_err();
    let BuildError::BuildFailed {
        stage: Stage::Fixed,
        output,
        ..
    } = &error
    else {
        panic!("{error}")
    };
    assert!(output.contains("undeclared"), "{output}");

    let mut request = project.request(&project.fix(&EDIT), &["program"]);
    request.command = command(&["make", "no-such-target"]);
    let error = build(&request).unwrap_err();
    assert!(
        matches!(
            error,
            BuildError::BuildFailed {
                stage: Stage::Original,
                ..
            }
        ),
        "{error}"
    );
    request.command = command(&["/no/such/command"]);
    let error = build(&request).unwrap_err();
    assert!(
        matches!(error, BuildError::CommandNotFound { .. }),
        "{error}"
    );
    request.command.clear();
    assert!(matches!(build(&request), Err(BuildError::Request { .. })));
}

#[test]
fn a_build_without_compiles() {
    let project = Project::new(PIE, PART);
    let mut request = project.request(&project.fix(&EDIT), &["program"]);
    request.command = command(&["true"]);
    let error = build(&request).unwrap_err();
    assert!(
        matches!(error, BuildError::NothingRecompiled { .. }),
        "{error}"
    );
    // A compiler by its full path is not seen.
    request.command = command(&["make", "CC=/usr/bin/gcc"]);
    let error = build(&request).unwrap_err();
    assert!(matches!(error, BuildError::NoCompileRecorded), "{error}");
    assert!(error.to_string().contains("full path"), "{error}");
}

/// The object is there from before, and make does not know that it depends on the header.
#[test]
fn a_build_that_does_not_notice_the_fix() {
    let makefile = "program: main.o part.o\n\t$(CC) -o $@ $^ -Wl,--build-id\n";
    let part = "#include \"limit.h\"\nint part(int x) { return x > LIMIT ? -1 : x * 7; }\n";
    let files = [
        ("main.c", crate::support::MAIN),
        ("part.c", part),
        ("limit.h", "#define LIMIT 100\n"),
    ];
    let project = Project::with_files(makefile, &files);
    project.run("rm", &["main.o"]);
    let object = project.build(&[("limit.h", "100", "99")], "program");
    assert_eq!(names(&object), ["part"]);
}

#[test]
fn a_compiler_of_another_name() {
    let project = Project::new(PIE, PART);
    for compiler in [
        "gcc",
        "x86_64-linux-gnu-gcc",
        "gcc-12",
        "x86_64-linux-gnu-gcc-12",
        "c99",
    ] {
        let mut request = project.request(&project.fix(&EDIT), &["program"]);
        request.command = command(&["make", &format!("CC={compiler}")]);
        patch(build(&request).unwrap_or_else(|error| panic!("{compiler}: {error}")));
    }
}

#[test]
fn compile_and_link_in_one_command() {
    let makefile =
        "program: main.c part.c\n\t$(CC) $(CFLAGS) -o $@ main.c part.c -Wl,--build-id -lm\n";
    let project = Project::new(makefile, PART);
    let report = project.try_build(&EDIT, "program").unwrap();
    assert_eq!(report.objects[0].changed, ["part"]);
    patch(report);
}

#[test]
fn binaries_that_cannot_be_used() {
    let project = Project::new(PIE, PART);
    let fix = project.fix(&EDIT);
    project.run(
        "gcc",
        &["-Wl,--build-id=none", "-o", "anonymous", "main.o", "part.o"],
    );
    project.run("cp", &["program", "copy"]);
    let error = |binaries: &[&str]| match build(&project.request(&fix, binaries)) {
        Err(BuildError::Binary(error)) => error,
        other => panic!("{other:?}"),
    };
    assert!(matches!(
        error(&["anonymous"]),
        BinaryError::NoBuildId { .. }
    ));
    assert!(error(&["anonymous"]).to_string().contains("-Wl,--build-id"));
    assert!(matches!(error(&["none"]), BinaryError::Unreadable { .. }));
    assert!(matches!(error(&["part.c"]), BinaryError::Malformed { .. }));
    assert!(matches!(
        error(&["part.o"]),
        BinaryError::Unsupported { e_type: 1, .. }
    ));
    assert!(matches!(
        error(&["program", "copy"]),
        BinaryError::Duplicate { .. }
    ));
    assert!(matches!(
        build(&project.request(&fix, &[])),
        Err(BuildError::Request { .. })
    ));
}

#[test]
fn names_and_output() {
    let project = Project::new(PIE, PART);
    let mut request = project.request(&project.fix(&EDIT), &["program"]);
    request.name = Some("no such/name".to_owned());
    assert!(matches!(build(&request), Err(BuildError::Request { .. })));
    request.name = Some("CVE-2024-1".to_owned());
    request.output = Some(project.file("../out.patch"));
    build(&request).unwrap();
    let bytes = fs::read(project.file("../out.patch")).unwrap();
    assert_eq!(engraft_patch::read(&bytes).unwrap().name, "CVE-2024-1");
}

#[test]
fn a_tree_that_is_configured_for_its_place() {
    let project = Project::new(PIE, PART);
    let source = project.source();
    let mut request = project.request(&project.fix(&EDIT), &["program"]);
    request.command = vec!["make".into(), "-C".into(), source.into(), "-B".into()];
    let error = build(&request).unwrap_err();
    let BuildError::BuildFailed { output, .. } = &error else {
        panic!("{error}")
    };
    assert!(output.contains("original tree"), "{output}");
}

#[test]
fn file_names_in_code_are_those_of_the_users_tree() {
    let makefile = "program: main.o part.o\n\t$(CC) -o $@ $^ -Wl,--build-id\n%.o: %.c\n\t$(CC) $(CFLAGS) -c -o $@ $(CURDIR)/$<\n";
    let project = Project::new(
        makefile,
        "#include <stdio.h>\nint part(int x) { puts(__FILE__); return x * 9; }\n",
    );
    let object = project.build(&EDIT, "program");
    let file = project.file("part.c");
    let file = file.to_str().unwrap().as_bytes();
    assert!(
        object
            .image
            .read_only
            .windows(file.len())
            .any(|window| window == file)
    );
}

#[test]
fn an_object_that_the_build_command_makes_only_once() {
    let project = Project::new(PIE, PART);
    project.run("mv", &["program", "../program"]);
    project.run("rm", &["main.o", "part.o"]);
    let mut request = project.request(&project.fix(&EDIT), &["../program"]);
    request.command = command(&["sh", "-c", "test -e program || make"]);
    let report = build(&request).unwrap();
    assert_eq!(report.objects[0].changed, ["part"]);
}
