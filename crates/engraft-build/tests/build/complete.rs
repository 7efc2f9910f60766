//! Half a patch is no success: every function that the fix changes, wherever it was compiled to.

use engraft_build::{BuildError, BuildOutcome, BuildReport, MissingSource, Refusal, build};

use crate::support::{MAIN, Project, names, patch};

const VALUE: (&str, &str) = ("value.h", "#define VALUE 1000\n");
const CHANGED: (&str, &str, &str) = ("value.h", "1000", "2000");

/// Two functions that are alike whatever the options are, and one that is not.
const BASE: &str = "#include \"value.h\"\n\
    __attribute__((noipa)) int first(int x) { volatile int y[4] = { x }; return y[x & 3] + VALUE; }\n\
    __attribute__((noipa, visibility(\"hidden\"))) int second(void) { return VALUE; }\n\
    int show(int x) { return first(x) * 3 + second(); }\n";

fn objects(report: BuildReport) -> Vec<(String, Vec<String>)> {
    let objects = patch(report).objects;
    let all = objects.iter();
    all.map(|object| {
        let names = names(object).into_iter().map(str::to_owned);
        (object.file_name.clone(), names.collect())
    })
    .collect()
}

fn expected(objects: &[(&str, &[&str])]) -> Vec<(String, Vec<String>)> {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let all = objects.iter();
    all.map(|(file, functions)| ((*file).to_owned(), names(functions)))
        .collect()
}

fn incomplete(result: Result<BuildReport, BuildError>) -> Vec<MissingSource> {
    match result {
        Err(BuildError::Incomplete {
            missing_sources, ..
        }) => missing_sources,
        other => panic!("{other:?}"),
    }
}

const SHARED: &str = "$(CC) $(CFLAGS) -fPIC -shared -Wl,--build-id";

#[test]
fn one_source_linked_twice_with_other_options() {
    let makefile = format!(
        "all:\n\t{SHARED} -o base.so base.c\n\tmkdir -p hard\n\t{SHARED} -fstack-protector-all -o hard/hard.so base.c\n"
    );
    let project = Project::with_files(&makefile, &[VALUE, ("base.c", BASE)]);
    let fix = project.fix(&[CHANGED]);
    let both: &[&str] = &["first", "second"];
    for (binaries, found) in [
        (&["base.so"][..], &[("base.so", both)][..]),
        (&["hard/hard.so"], &[("hard.so", both)]),
        (
            &["base.so", "hard/hard.so"],
            &[("base.so", both), ("hard.so", both)],
        ),
    ] {
        let report = build(&project.request(&fix, binaries)).unwrap();
        assert_eq!(objects(report), expected(found));
    }
}

#[test]
fn one_object_file_that_is_written_twice() {
    let makefile = "all:\n\t$(CC) $(CFLAGS) -c -o base.o base.c\n\t$(CC) -o plain main.c base.o -Wl,--build-id\n\
        \t$(CC) $(CFLAGS) -fstack-protector-all -c -o base.o base.c\n\
        \t$(AR) rcs libbase.a base.o\n\trm base.o\n\t$(CC) -o hard main.c libbase.a -Wl,--build-id\n";
    let main = "int show(int);\nint main(int c, char **v) { (void)v; return show(c); }\n";
    let project = Project::with_files(makefile, &[VALUE, ("base.c", BASE), ("main.c", main)]);
    let report = build(&project.request(&project.fix(&[CHANGED]), &["plain", "hard"])).unwrap();
    let both: &[&str] = &["first", "second"];
    assert_eq!(
        objects(report),
        expected(&[("plain", both), ("hard", both)])
    );
}

#[test]
fn one_source_twice_in_one_program() {
    let makefile = "program: main.c base.c value.h\n\t$(CC) $(CFLAGS) -c -o one.o base.c\n\
        \t$(CC) $(CFLAGS) -DTWO -fstack-protector-all -c -o two.o base.c\n\
        \t$(CC) -o $@ main.c one.o two.o -Wl,--build-id\n";
    let base = format!(
        "#ifdef TWO\n#define first first2\n#define second second2\n#define show show2\n#endif\n{BASE}"
    );
    let main = "int show(int), show2(int);\nint main(int c, char **v) { (void)v; return show(c) + show2(c); }\n";
    let project = Project::with_files(makefile, &[VALUE, ("base.c", &base), ("main.c", main)]);
    let object = project.build(&[CHANGED], "program");
    assert_eq!(names(&object), ["first", "first2", "second", "second2"]);
}

/// What looks like a changed function is none, if it comes from another source.
#[test]
fn a_like_function_of_another_source() {
    let makefile = format!(
        "all: one.so two.so\none.so: one.c\n\t{SHARED} -o $@ $^\ntwo.so: two.c\n\t{SHARED} -o $@ $^\n"
    );
    let text = |number: u32| {
        format!(
            "__attribute__((noipa, visibility(\"hidden\"))) int limit(void) {{ return 1000; }}\n\
             int show(int x) {{ return limit() * {number} + x; }}\n"
        )
    };
    let (one, two) = (text(7), text(9));
    let project = Project::with_files(&makefile, &[("one.c", &one), ("two.c", &two)]);
    let fix = project.fix(&[("two.c", "return 1000", "return 2000")]);
    let report = build(&project.request(&fix, &["one.so", "two.so"])).unwrap();
    assert_eq!(objects(report), expected(&[("two.so", &["limit"])]));
    let missing_sources = incomplete(build(&project.request(&fix, &["one.so"])));
    assert_eq!(missing_sources[0].functions, ["limit"]);
    assert_eq!(
        missing_sources[0].holders,
        [std::path::PathBuf::from("two.so")]
    );
}

const TOOL: &str = "#include \"value.h\"\nint part(int x) { return x + VALUE; }\n\
    int main(int c, char **v) { (void)v; return part(c) * 7; }\n";

#[test]
fn another_program_of_the_same_source() {
    let makefile = "all: program tool\nprogram: main.o part.o\n\t$(CC) -o $@ $^ -Wl,--build-id\n\
        tool: tool.o\n\t$(CC) -o $@ $^ -Wl,--build-id=none\npart.o tool.o: value.h\n";
    let part = "#include \"value.h\"\nint part(int x) { return x * 9 + VALUE; }\n";
    let files = [VALUE, ("main.c", MAIN), ("part.c", part), ("tool.c", TOOL)];
    let project = Project::with_files(makefile, &files);
    let mut request = project.request(&project.fix(&[CHANGED]), &["program"]);
    let error = build(&request);
    let text = error.as_ref().unwrap_err().to_string();
    assert!(text.contains("in the build tree: tool"), "{text}");
    let missing_sources = incomplete(error);
    assert_eq!(missing_sources.len(), 1);
    assert_eq!(missing_sources[0].source_file.to_str(), Some("tool.c"));
    assert!(
        missing_sources[0].functions.contains(&"part".to_owned()),
        "{missing_sources:?}"
    );
    // As the author wants it.
    request.partial = true;
    let report = build(&request).unwrap();
    let BuildOutcome::Patch { patch, file } = report.outcome else {
        panic!("no change")
    };
    assert_eq!(names(&patch.objects[0]), ["part"]);
    assert!(patch.concessions.is_partial());
    let read = engraft_patch::read(&file).unwrap().concessions;
    assert_eq!(read.missing[0].source_file, "tool.c");
}

/// The binary was built with options that the build command does not use.
#[test]
fn a_binary_that_has_the_function_in_another_form() {
    let makefile = "all: program other\nprogram: main.o part.o\n\t$(CC) -o $@ $^ -Wl,--build-id\n\
        other: main.o part.o\n\t$(CC) -o $@ -DOTHER $^ -Wl,--build-id\n";
    let part = "int part(int x) { volatile int y[4] = { x }; return y[x & 3] * 9 + 4; }\n";
    let project = Project::with_files(makefile, &[("main.c", MAIN), ("part.c", part)]);
    let flags = "-O2 -fstack-protector-all -o other main.c part.c -Wl,--build-id";
    project.run("gcc", &flags.split(' ').collect::<Vec<_>>());
    let fix = project.fix(&[("part.c", "* 9", "* 10")]);
    match build(&project.request(&fix, &["program", "other"])) {
        Err(BuildError::Refused { refusals }) => assert!(
            matches!(refusals.as_slice(), [Refusal::CodeDiffers { function, binary, .. }]
                if function == "part" && binary == "other"),
            "{refusals:?}"
        ),
        other => panic!("{other:?}"),
    }
}

#[test]
fn users_of_a_header_that_make_does_not_track() {
    let makefile = "program: make.o use.o\n\t$(CC) -o $@ $^ -Wl,--build-id\n";
    let header = "struct item { int id; int length; char *text; };\nint use(struct item *);\n#define VALUE 1000\n";
    let make = "#include <stdlib.h>\n#include \"value.h\"\n\
        struct item *make(int id) { struct item *new = calloc(1, sizeof *new); new->id = id + VALUE; return new; }\n\
        int main(int c, char **v) { (void)v; return use(make(c)); }\n";
    let user = "#include \"value.h\"\nint use(struct item *x) { return x->id - VALUE; }\n";
    let files = [("value.h", header), ("make.c", make), ("use.c", user)];
    let edits = [CHANGED, ("make.c", "id + VALUE", "VALUE + id * 2")];
    for prebuilt in [true, false] {
        let project = Project::with_files(makefile, &files);
        if !prebuilt {
            project.run("rm", &["make.o", "use.o"]);
        }
        let object = project.build(&edits, "program");
        assert_eq!(
            names(&object),
            ["main", "make", "use"],
            "built before: {prebuilt}"
        );
    }
}

/// An object that the build command does not make again, and that a binary has.
#[test]
fn objects_of_unknown_origin() {
    let makefile = "program: main.o\n\t$(CC) -o $@ $^ part.o -Wl,--build-id\n";
    let part = "#include \"value.h\"\nint part(int x) { return x * 9 + VALUE; }\n";
    let main = format!("#include \"value.h\"\n{MAIN}int more(void) {{ return VALUE; }}\n");
    let project = {
        let files = [VALUE, ("main.c", main.as_str()), ("part.c", part)];
        // The first build needs the object.
        let first = format!("all: part.o program\n{makefile}");
        let project = Project::with_files(&first, &files);
        project.run("sed", &["-i", "/^all/d", "Makefile"]);
        project
    };
    let fix = project.fix(&[CHANGED]);
    let mut request = project.request(&fix, &["program"]);
    request.command = ["make", "program"].map(Into::into).to_vec();
    let error = build(&request).unwrap_err();
    assert!(
        matches!(&error, BuildError::UnknownCompiles { objects, .. }
            if objects.as_slice() == [std::path::PathBuf::from("part.o")]),
        "{error}"
    );
}

/// One of two compilers is called by its full path.
#[test]
fn objects_whose_compiler_is_not_seen() {
    let makefile = "program: main.o part.o\n\t$(CC) -o $@ $^ -Wl,--build-id\nmain.o part.o: value.h\n\
        part.o: part.c\n\t/usr/bin/gcc -O2 -c part.c\n";
    let part = "#include \"value.h\"\nint part(int x) { return x * 9 + VALUE; }\n";
    let main = format!("#include \"value.h\"\n{MAIN}int more(void) {{ return VALUE; }}\n");
    let files = [VALUE, ("main.c", main.as_str()), ("part.c", part)];
    let project = Project::with_files(makefile, &files);
    let error = project.try_build(&[CHANGED], "program").unwrap_err();
    assert!(
        matches!(&error, BuildError::UnseenCompiles { objects }
            if objects.as_slice() == [std::path::PathBuf::from("part.o")]),
        "{error}"
    );
}

#[test]
fn link_time_optimisation_is_called_by_its_name() {
    for option in ["-flto", "-flto -ffat-lto-objects"] {
        let makefile = format!(
            "program: main.o part.o\n\t$(CC) {option} -O2 -o $@ $^ -Wl,--build-id\nCFLAGS += {option}\n"
        );
        let project = Project::new(&makefile, "int part(int x) { return x * 9 + 4; }\n");
        let refusals = project.refusals(&[("part.c", "* 9", "* 10")], "program");
        assert!(
            matches!(refusals.as_slice(), [Refusal::LinkTimeOptimisation { functions, .. }]
                if functions == &["part"]),
            "{option}: {refusals:?}"
        );
        assert!(refusals[0].to_string().contains("LTO"));
    }
}

#[test]
fn a_copy_of_an_inline_function_is_patched_once() {
    let makefile =
        "program: main.o one.o two.o\n\t$(CXX) -o $@ $^ -Wl,--build-id\nCXXFLAGS += -O2\n";
    let header = "#define VALUE 1000\n\
        struct Box { int x; __attribute__((noipa)) int get() { return x * 3 + VALUE; } };\n";
    let file = |name: &str| {
        format!(
            "#include \"value.h\"\nint {name}(int x) {{ Box box = {{ x }}; return box.get() * 7; }}\n"
        )
    };
    let main = "int one(int), two(int);\nint main(int c, char **) { return one(c) + two(c); }\n";
    let (one, two) = (file("one"), file("two"));
    let files = [
        ("value.h", header),
        ("main.cc", main),
        ("one.cc", &one),
        ("two.cc", &two),
    ];
    let project = Project::with_files(makefile, &files);
    let report = project.try_build(&[CHANGED], "program").unwrap();
    assert_eq!(report.objects[0].changed, ["_ZN3Box3getEv"]);
}
