//! Fixes that change how types lie in memory.

use engraft_build::{BuildOutcome, Refusal, build};

use crate::support::{PIE, Project, names};

const HEADER: &str = "struct conn { int id; char open; long length; char *text; };\n\
    enum state { IDLE = 1, BUSY };\n\
    struct conn *make(int id);\nint part(int x);\n";
const PART: &str = "#include <stdlib.h>\n#include \"conn.h\"\n\
    struct conn *made; enum state state;\n\
    __attribute__((noipa)) struct conn *make(int id) {\n\
      struct conn *new = calloc(1, sizeof *new); new->id = id; new->length = 3; return new; }\n\
    __attribute__((noipa)) int use(struct conn *conn) { return conn->length + conn->id; }\n\
    int part(int x) { if (!made) made = make(x); state = BUSY; return use(made); }\n";
const MAIN: &str = "#include \"conn.h\"\nint main(int c, char **v) { (void)v; return part(c); }\n";

fn project() -> Project {
    let makefile = format!("{PIE}main.o part.o: conn.h\n");
    let files = [("conn.h", HEADER), ("main.c", MAIN), ("part.c", PART)];
    Project::with_files(&makefile, &files)
}

/// The type, its differences and its users.
fn refused(edits: &[(&str, &str, &str)]) -> (String, String, Vec<String>) {
    let refusals = project().refusals(edits, "program");
    match refusals.as_slice() {
        [
            Refusal::ChangedLayout {
                name,
                differences,
                users,
                file,
                line,
            },
        ] => {
            assert!(file.ends_with("conn.h") && *line > 0, "{file}:{line}");
            (name.clone(), differences.join("; "), users.clone())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_new_member() {
    let (name, differences, users) = refused(&[
        ("conn.h", "long length;", "long limit; long length;"),
        (
            "part.c",
            "new->length = 3",
            "new->length = 3; new->limit = 7",
        ),
    ]);
    assert_eq!(name, "struct conn");
    assert!(
        differences.contains("24 bytes, and has 32"),
        "{differences}"
    );
    assert!(
        differences.contains("length was at 8, and is at 16"),
        "{differences}"
    );
    assert!(
        users.contains(&"use".to_owned()) && users.contains(&"make".to_owned()),
        "{users:?}"
    );
}

#[test]
fn a_member_at_the_end() {
    let (_, differences, _) = refused(&[
        ("conn.h", "char *text;", "char *text; int limit;"),
        ("part.c", "new->length = 3", "new->limit = 7"),
    ]);
    assert_eq!(differences, "it had 24 bytes, and has 32");
}

#[test]
fn members_that_change_places() {
    let (_, differences, _) = refused(&[(
        "conn.h",
        "long length; char *text;",
        "char *text; long length;",
    )]);
    assert!(
        differences.contains("text was at 16, and is at 8"),
        "{differences}"
    );
}

#[test]
fn a_member_of_another_type() {
    let (_, differences, _) = refused(&[
        ("conn.h", "int id;", "float id;"),
        (
            "part.c",
            "conn->length + conn->id",
            "conn->length + (int)conn->id",
        ),
    ]);
    assert_eq!(differences, "id was int, and is float");
}

#[test]
fn an_enumerator_with_another_value() {
    let (name, differences, _) = refused(&[("conn.h", "IDLE = 1, BUSY", "IDLE = 1, AWAY, BUSY")]);
    assert_eq!(name, "enum state");
    assert_eq!(differences, "BUSY was 2, and is 3");
}

#[test]
fn what_does_no_harm() {
    for (edits, changed, words) in [
        // In padding.
        (
            &[
                ("conn.h", "char open;", "char open; short limit;"),
                (
                    "part.c",
                    "new->length = 3",
                    "new->length = 3; new->limit = 7",
                ),
            ][..],
            &["make"][..],
            "limit is new at 6, in what was padding",
        ),
        // An enumerator.
        (
            &[
                ("conn.h", "BUSY", "BUSY, AWAY"),
                ("part.c", "state = BUSY", "state = x ? BUSY : AWAY"),
            ],
            &["part"],
            "the enumerator AWAY is new",
        ),
        // Another sign and qualifier.
        (
            &[
                ("conn.h", "int id;", "volatile unsigned id;"),
                ("part.c", "new->length = 3", "new->length = 4"),
            ],
            &["make", "use"],
            "",
        ),
    ] {
        let report = project().try_build(edits, "program").unwrap();
        let harmless = format!("{:?}", report.harmless);
        assert!(harmless.contains(words), "{harmless}");
        let BuildOutcome::Patch { patch, .. } = report.outcome else {
            panic!("no change")
        };
        let found = names(&patch.objects[0]);
        assert!(changed.iter().all(|name| found.contains(name)), "{found:?}");
        assert!(patch.concessions.is_empty());
    }
}

const STACK: &str = "#include <string.h>\n\
    struct scan { const char *at; int depth; };\n\
    __attribute__((noipa)) static int step(struct scan *scan) { scan->depth++; return *scan->at++ != 0; }\n\
    int part(int x) { char text[8]; memset(text, x, 7); text[7] = 0; struct scan scan = { text, 0 };\n\
      while (step(&scan)) ; return scan.depth; }\n";

#[test]
fn a_type_on_the_stack_of_replaced_functions() {
    let edits = [
        ("part.c", "int depth;", "long limit; int depth;"),
        ("part.c", "{ text, 0 }", "{ text, 9, 0 }"),
    ];
    let report = Project::new(PIE, STACK)
        .try_build(&edits, "program")
        .unwrap();
    assert!(format!("{:?}", report.harmless).contains("only on the stack"));
    assert_eq!(report.objects[0].changed.len(), 2);
    // It may be anywhere, if others may pass it.
    let shared = STACK.replace("static int step", "int step");
    let refusals = Project::new(PIE, &shared).refusals(&edits, "program");
    assert!(
        matches!(refusals.as_slice(), [Refusal::ChangedLayout { .. }]),
        "{refusals:?}"
    );
    // A pointer to it may come from anywhere.
    let kept = STACK.replace(
        "scan->depth++;",
        "static struct scan *last; if (last) last->depth++; last = scan;",
    );
    let refusals = Project::new(PIE, &kept).refusals(&edits, "program");
    assert!(
        matches!(refusals.as_slice(), [Refusal::ChangedLayout { .. }]),
        "{refusals:?}"
    );
}

#[test]
fn an_accepted_layout() {
    let project = project();
    let fix = project.fix(&[
        ("conn.h", "char *text;", "char *text; int limit;"),
        ("part.c", "new->length = 3", "new->limit = 7"),
    ]);
    let mut request = project.request(&fix, &["program"]);
    request.accept_layouts = vec!["conn".to_owned()];
    let report = build(&request).unwrap();
    let BuildOutcome::Patch { file, .. } = report.outcome else {
        panic!("no change")
    };
    let read = engraft_patch::read(&file).unwrap().concessions;
    assert_eq!(read.accepted_layouts, ["struct conn"]);
    assert!(!read.is_partial());
}

#[test]
fn a_union_that_grows() {
    let text = "#include <stdlib.h>\n\
        typedef union { int small; char bytes[28]; } address;\n\
        struct holder { struct { address a; int n; } inner; } *held;\n\
        int part(int x) { if (!held) held = calloc(1, sizeof *held); held->inner.n += x; return held->inner.n; }\n";
    let edit = ("part.c", "bytes[28]", "bytes[128]");
    let refusals = Project::new(PIE, text).refusals(&[edit], "program");
    let name = |refusal: &Refusal| match refusal {
        Refusal::ChangedLayout { name, .. } => name.clone(),
        other => panic!("{other:?}"),
    };
    let mut found: Vec<_> = refusals.iter().map(name).collect();
    found.sort();
    assert_eq!(found, ["address", "struct holder"]);
}
