//! Trampolines of real code are executed: with every site leading to one, functions answer as
//! without.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use engraft_patch::{Object, RelocationTarget, Segment};

use crate::support::{LIBRARY, Project};

const SHAPES: &str = include_str!("../fixtures/shapes.c");
const RUNNER: &str = include_str!("../fixtures/runner.c");

/// What the runner has to know of the trampolines.
fn script(object: &Object) -> String {
    let mut script = String::new();
    for function in &object.functions {
        let (entry, size) = (function.trampoline.entry, function.trampoline.size);
        assert_eq!((entry.segment, entry.offset % 16), (Segment::Text, 0));
        let address = function.parts[0].address.0;
        let site = function.site().unwrap().start;
        let name = &function.name;
        writeln!(script, "function {name} {address} {site} {}", entry.offset).unwrap();
        let range = entry.offset..entry.offset + size;
        for relocation in &object.image.relocations {
            let place = relocation.place;
            if place.segment == Segment::Text && range.contains(&place.offset) {
                let RelocationTarget::Object { address, .. } = &relocation.target else {
                    panic!("{:?}", relocation.target);
                };
                let (place, addend) = (place.offset, relocation.addend);
                writeln!(script, "relocation {place} {} {addend}", address.0).unwrap();
            }
        }
    }
    script
}

/// Builds a patch for the library of all shapes, and runs its trampolines.
fn run(compiler: &str, options: &str) {
    let makefile = format!("CC = {compiler}\nTARGET_ARCH = {options}\n{LIBRARY}");
    let files = [("part.c", SHAPES), ("runner.c", RUNNER)];
    let project = Project::with_files(&makefile, &files);
    project.run("gcc", &["-O1", "-o", "runner", "runner.c"]);
    let object = project.build(&[("part.c", "DELTA 1", "DELTA 2")], "libpart.so");
    // All but the helper.
    assert!(object.functions.len() >= 25, "{}", object.functions.len());
    fs::write(project.file("text"), &object.image.text).unwrap();
    fs::write(project.file("script"), script(&object)).unwrap();
    let output = Command::new(project.file("runner"))
        .args(["./libpart.so", "text", "script"])
        .current_dir(project.source())
        .output()
        .unwrap();
    assert!(output.status.success(), "{compiler} {options}: {output:?}");
}

#[test]
fn functions_behind_their_trampolines_do_what_they_did() {
    let clang = Command::new("clang").arg("--version").output();
    let compilers: &[&str] = match clang {
        Ok(_) => &["gcc", "clang"],
        Err(_) => &["gcc"],
    };
    for compiler in compilers {
        for level in ["-O0", "-O2", "-Os"] {
            for protection in ["none", "full"] {
                run(compiler, &format!("{level} -fcf-protection={protection}"));
            }
        }
    }
}
