//! Changed files that no compile reads.

use std::path::PathBuf;

use engraft_build::{BuildError, BuildReport};

use crate::support::{MAIN, Project, patch};

const PART: &str = "#include \"limit.h\"\nstatic const int values[] = {\n#include \"values.def\"\n};\n\
    int part(int x) { return x > LIMIT ? values[x & 1] : x * 7; }\n";

fn project() -> Project {
    let makefile =
        "program: main.o part.o\n\t$(CC) -o $@ $^ -Wl,--build-id\npart.o: limit.h values.def\n";
    let files = [
        ("main.c", MAIN),
        ("part.c", PART),
        ("limit.h", "#define LIMIT 100\n"),
        ("values.def", "3, 5\n"),
        ("windows.c", "int part(int x) { return x; }\n"),
        ("NEWS", "Bugs.\n"),
        ("main.rs", "fn main() {}\n"),
    ];
    Project::with_files(makefile, &files)
}

fn unread(report: BuildReport) -> Vec<PathBuf> {
    let unread = report.unread.clone();
    patch(report);
    unread
}

fn not_compiled(result: Result<BuildReport, BuildError>) -> Vec<PathBuf> {
    match result {
        Err(BuildError::NotCompiled { files }) => files,
        other => panic!("{other:?}"),
    }
}

const CODE: (&str, &str, &str) = ("part.c", "* 7", "* 8");
const NEWS: (&str, &str, &str) = ("NEWS", "Bugs", "None");

#[test]
fn files_beside_code_are_noted() {
    let project = project();
    let report = project.try_build(&[CODE], "program").unwrap();
    assert!(unread(report).is_empty());
    let windows = ("windows.c", "x;", "-x;");
    let report = project.try_build(&[CODE, NEWS, windows], "program");
    assert_eq!(
        unread(report.unwrap()),
        ["NEWS", "windows.c"].map(PathBuf::from)
    );
}

#[test]
fn included_files_are_read_whatever_their_names() {
    let project = project();
    let report = project.try_build(&[("limit.h", "100", "99")], "program");
    assert!(unread(report.unwrap()).is_empty());
    let edits = [CODE, ("values.def", "5", "05"), NEWS];
    let report = project.try_build(&edits, "program");
    assert_eq!(unread(report.unwrap()), ["NEWS"].map(PathBuf::from));
}

#[test]
fn without_code_it_is_an_error() {
    let project = project();
    for edit in [NEWS, ("main.rs", "{}", "{ () }")] {
        let files = not_compiled(project.try_build(&[edit], "program"));
        assert_eq!(files, [PathBuf::from(edit.0)]);
    }
    // Nor does a comment make it a change of code.
    let comment = ("part.c", "int part", "/* ... */ int part");
    for edit in [NEWS, ("windows.c", "x;", "-x;")] {
        let files = not_compiled(project.try_build(&[comment, edit], "program"));
        assert_eq!(files, [PathBuf::from(edit.0)]);
    }
}

#[test]
fn a_build_of_other_languages_only() {
    let project = project();
    let mut request = project.request(&project.fix(&[("main.rs", "{}", "{ () }")]), &["program"]);
    request.command = vec!["true".into()];
    let error = engraft_build::build(&request);
    assert_eq!(not_compiled(error), [PathBuf::from("main.rs")]);
}

/// As configure scripts do.
#[test]
fn a_build_that_compiles_files_which_it_removes() {
    let project = project();
    let mut request = project.request(&project.fix(&[NEWS]), &["program"]);
    let script = "echo 'int x;' > try.c && cc -c try.c && rm try.c && make";
    request.command = ["sh", "-c", script].map(Into::into).to_vec();
    let error = engraft_build::build(&request);
    assert_eq!(not_compiled(error), [PathBuf::from("NEWS")]);
}
