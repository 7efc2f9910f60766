//! Build commands that do more than compile what the binary is made of, and command lines of all
//! kinds.

use engraft_build::{BuildReport, build};

use crate::support::{MAIN, PIE, Project, names, patch};

const PART: &str = "int part(int x) { return x * 9 + 4; }\n";
const EDIT: [(&str, &str, &str); 1] = [("part.c", "x * 9", "x * 10")];

fn build_by(project: &Project, script: &str) -> BuildReport {
    let mut request = project.request(&project.fix(&EDIT), &["../program"]);
    request.command = ["sh", "-c", script].map(Into::into).to_vec();
    build(&request).unwrap_or_else(|error| panic!("{script}: {error}"))
}

/// A source that nobody has compiled, and the binary elsewhere.
fn clean(makefile: &str, part: &str) -> Project {
    let project = Project::new(makefile, part);
    project.run("mv", &["program", "../program"]);
    project.run("rm", &["-f", "main.o", "part.o"]);
    project
}

/// As configure scripts, cmake, meson and some Makefiles do.
#[test]
fn trials_of_the_compiler() {
    for trial in [
        "echo 'int x;' > conftest.c; gcc -c conftest.c; rm conftest.c conftest.o",
        "echo 'int main() { return 0; }' > conftest.c; gcc -o conftest conftest.c; rm conftest*",
        "echo 'no C' > conftest.c; gcc -c conftest.c; rm conftest.c",
        "echo 'int x;' > conftest.c; gcc -c conftest.c; echo 'no C' > conftest.c; rm conftest.o",
        "mkdir try; echo 'int x;' > try/try.c; gcc -c try/try.c -o try/try.o; rm -r try",
        "echo '#include \"part.c\"' > try.c; gcc -c try.c; rm try.c try.o",
        "echo 'int x;' | gcc -x c -c - -o x.o",
        "echo 'int main() { return 0; }' > sanity.c; gcc -c sanity.c -o /dev/null",
    ] {
        let project = clean(PIE, PART);
        let report = build_by(&project, &format!("{trial}; make"));
        assert_eq!(report.objects[0].changed, ["part"], "{trial}");
        patch(report);
    }
}

/// make removes what it takes for intermediate files.
#[test]
fn a_generated_source_that_the_build_removes() {
    let makefile = "program: main.o part.o\n\t$(CC) -o $@ $^ -Wl,--build-id\n\
        %.c: %.in\n\tsed s/NUMBER/9/ $< > $@\n";
    let part = ("part.in", "int part(int x) { return x * NUMBER + 4; }\n");
    let project = Project::with_files(makefile, &[("main.c", MAIN), part]);
    project.run("mv", &["program", "../program"]);
    project.run("rm", &["-f", "main.o", "part.o"]);
    let object = project.build(&[("part.in", "+ 4", "+ 5")], "../program");
    assert_eq!(names(&object), ["part"]);
}

/// The fix is in the options, and the code is the same text.
#[test]
fn a_fix_of_the_options() {
    let part = "#ifndef LIMIT\n#define LIMIT 1000\n#endif\nint part(int x) { return x > LIMIT ? -1 : x * 9; }\n";
    let makefile = "program: main.o part.o\n\t$(CC) -o $@ $^ -Wl,--build-id\nCFLAGS += -DLIMIT=1000\npart.o: Makefile\n";
    let project = clean(makefile, part);
    let edit = ("Makefile", "LIMIT=1000", "LIMIT=99");
    let object = project.build(&[edit], "../program");
    assert_eq!(names(&object), ["part"]);
}

#[test]
fn options_and_sources_in_a_file() {
    let makefile = "program: main.o part.o\n\t$(CC) -o $@ $^ -Wl,--build-id\n\
        part.o: part.c\n\techo '$(CFLAGS) -c part.c' > options; $(CC) @options; rm options\n";
    let project = clean(makefile, PART);
    assert_eq!(build_by(&project, "make").objects[0].changed, ["part"]);
}

#[test]
fn a_source_whose_language_an_option_tells() {
    let makefile = "program: main.o part.o\n\t$(CC) -o $@ $^ -Wl,--build-id\n\
        part.o: part.text\n\t$(CC) $(CFLAGS) -x c -c -o $@ part.text\n";
    let project = Project::with_files(makefile, &[("main.c", MAIN), ("part.text", PART)]);
    let object = project.build(&[("part.text", "x * 9", "x * 10")], "program");
    assert_eq!(names(&object), ["part"]);
}

/// musl-gcc is a script that adds such an option.
#[test]
fn a_specs_file() {
    let makefile = "program: main.o part.o\n\t$(CC) -o $@ $^ -Wl,--build-id\nCC = gcc\nCFLAGS += -specs my.specs\n";
    let files = [("my.specs", "\n"), ("main.c", MAIN), ("part.c", PART)];
    let project = Project::with_files(makefile, &files);
    assert_eq!(names(&project.build(&EDIT, "program")), ["part"]);
}

/// The time of the build is in a header and on the command line.
#[test]
fn builds_that_note_the_time() {
    let makefile = "program: main.o part.o\n\t$(CC) -o $@ $^ -Wl,--build-id\n\
        CFLAGS += -DTIME=\\\"$(shell date +%N)\\\"\n";
    let project = clean(makefile, PART);
    let report = build_by(&project, "make");
    assert_eq!(report.objects[0].changed, ["part"]);
}

/// A new source file, whose functions changed ones use.
#[test]
fn a_fix_with_a_new_file() {
    let makefile = "MORE =\nprogram: main.o part.o $(MORE)\n\t$(CC) -o $@ $^ -Wl,--build-id\n";
    let project = Project::new(makefile, PART);
    let fix = project.fix(&[
        (
            "part.c",
            "int part(int x) { return x * 9",
            "int check(int);\nint part(int x) { return check(x) * 9",
        ),
        ("Makefile", "MORE =", "MORE = more.o"),
    ]);
    let mut text = std::fs::read_to_string(&fix).unwrap();
    text.push_str("--- /dev/null\n+++ b/more.c\n@@ -0,0 +1,2 @@\n+static int most = 5;\n+int check(int x) { return x > most ? most++ : x; }\n");
    std::fs::write(&fix, text).unwrap();
    let report = build(&project.request(&fix, &["program"])).unwrap();
    assert_eq!(report.objects[0].changed, ["part"]);
    assert_eq!(report.objects[0].new, ["check"]);
}
