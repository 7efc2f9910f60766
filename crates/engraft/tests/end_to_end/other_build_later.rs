//! Another build of a library, which the process loads after the patch was applied, does not run
//! patched, and is said not to: by `status`, by `check` and by the next `apply`, with its path, its
//! build-id and the one that was expected.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use engraft_testkit::{Outcome, TIME_LIMIT, Victim, elf, exit, run};

use crate::{engraft, victim, victims};

/// Under the same name.
#[test]
fn of_the_same_name() -> Result<()> {
    let other = Victim::build_with(&victims().join("host"), &["CFLAGS=-O1 -D_GNU_SOURCE"])?;
    is_named(&other.file("library.so"))
}

/// In a file with another version in its name; the name by which it is needed is the same.
#[test]
fn of_another_version() -> Result<()> {
    let link = "LDFLAGS=-Wl,--build-id -Wl,-soname,library.so";
    let other = Victim::build_with(&victims().join("host"), &[link])?;
    let file = other.file("library.so.2.1");
    fs::rename(other.file("library.so"), &file)?;
    is_named(&file)
}

fn is_named(other: &Path) -> Result<()> {
    let (engraft, victim) = (engraft(), victim("host")?);
    let patch = victim.patch(&engraft, "p1.patch", "p1", &["host", "library.so"])?;
    let mut program = victim.start("host", &[])?;
    let pid = program.pid().to_string();
    let ask = |command: &[&str]| -> Result<Outcome> {
        let mut command = engraft.command(command);
        run(command.args(["--pid", &pid]), TIME_LIMIT)
    };
    let waits = "waits for it to be loaded";
    engraft.apply(&patch, program.pid())?.exits(exit::OK)?;
    let status = ask(&["status"])?.exits(exit::OK)?;
    ensure!(!status.stdout.contains("another build"), "{status}");
    status.says(&[waits])?;

    program.expect(&format!("open {}", other.display()), "opened")?;
    program.expect("ask", "a=101 b=100")?;
    let found = elf::build_id(other)?;
    let expected = elf::build_id(&victim.file("library.so"))?;
    let path = other.to_string_lossy();
    let words = [&path, "another build of library.so", &found, &expected];
    ask(&["status"])?.exits(exit::OK)?.says(&words)?;
    let status = engraft.status(program.pid())?;
    let objects = status["patches"][0]["objects"].as_array();
    let mut objects = objects.into_iter().flatten();
    let library = objects.find(|it| it["file_name"] == "library.so");
    let others = library.map(|it| &it["other_builds"]);
    let wanted = serde_json::json!([{ "path": path, "build_id": found }]);
    ensure!(others == Some(&wanted), "{status}");
    let patch_text = patch.to_string_lossy();
    for command in ["check", "apply"] {
        let outcome = ask(&[command, &patch_text])?.exits(exit::DOES_NOT_FIT)?;
        outcome.says(&words)?;
    }

    program.expect("close", "closed")?;
    let status = ask(&["status"])?.exits(exit::OK)?;
    ensure!(!status.stdout.contains("another build"), "{status}");
    program.finish()
}

/// The right one beside another one: the patch is in effect in one of them, and both is said.
#[test]
fn beside_the_right_one() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("plugins")?);
    let other = Victim::build_with(
        &victims().join("plugins"),
        &["CFLAGS=-O1 -D_GNU_SOURCE -fPIC"],
    )?;
    let patch = victim.patch(&engraft, "local.patch", "local", &["local.so"])?;
    let mut program = victim.start("plugins", &[])?;
    let open = |file: &Path| format!("apart {}", file.display());
    program.expect(&open(&victim.file("local.so")), "opened")?;
    program.expect("switch", "switched")?;
    program.expect(&open(&other.file("local.so")), "opened")?;
    let outcome = engraft.apply(&patch, program.pid())?.exits(exit::OK)?;
    let found = elf::build_id(&other.file("local.so"))?;
    outcome.says(&["note:", "another build of local.so", &found])?;
    let status = engraft.run(["status", "--pid", &program.pid().to_string()])?;
    status.says(&["local.so: patched", "another build of local.so", &found])?;
    program.finish()
}

/// The program was updated while it ran: what runs is another build, though its file is gone.
#[test]
fn of_a_program_whose_file_was_deleted() -> Result<()> {
    let engraft = engraft();
    let patch_for = victim("workers")?;
    let patch = patch_for.patch(&engraft, "fix.patch", "cheap-apples", &["workers"])?;
    let other = Victim::build_with(&victims().join("workers"), &["FLAVOUR=-O1"])?;
    let found = elf::build_id(&other.file("workers"))?;
    let program = other.start("workers", &["0"])?;
    fs::remove_file(other.file("workers"))?;
    let outcome = engraft.apply(&patch, program.pid())?;
    outcome.exits(exit::DOES_NOT_FIT)?.says(&[&found])?;
    program.finish()
}
