//! Programs that have given rights up, or that belong to somebody else: the patch works, also for a
//! library that comes later, or the error is clear and the program lives on as it was.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use engraft_testkit::{Engraft, Program, Snapshot, TIME_LIMIT, Victim, exit, is_root, run, skip};

use crate::{engraft, victim};

/// The user "nobody" of Debian, who owns nothing.
const NOBODY: &str = "65534";

/// Reading, writing and memory, and death for everything else.
#[test]
fn a_filter_that_allows_only_what_the_program_needs() -> Result<()> {
    let Some(place) = as_root("a_filter_that_allows_only_what_the_program_needs")? else {
        return Ok(());
    };
    place.patched_and_back(place.start(&["no-calls"])?)
}

/// The agent is in the process when the library comes, with nobody to suspend the filter.
#[test]
fn a_filter_that_allows_to_load_libraries() -> Result<()> {
    let Some(place) = as_root("a_filter_that_allows_to_load_libraries")? else {
        return Ok(());
    };
    place.library_comes_later(place.start(&["loader-calls"])?)
}

/// Without the right to suspend a filter nothing is tried.
#[test]
fn a_filter_and_an_ordinary_user() -> Result<()> {
    let Some(place) = as_root("a_filter_and_an_ordinary_user")? else {
        return Ok(());
    };
    let mut program = place.start_as(NOBODY, &["no-calls"])?;
    let before = Snapshot::take(program.pid())?;
    let pid = program.pid().to_string();
    for command in ["check", "apply"] {
        place
            .engraft_as(NOBODY, &[command, &place.patch, "--pid", &pid])?
            .exits(exit::NOT_PATCHABLE)?
            .says(&["seccomp"])?;
    }
    before.expect_untouched()?;
    program.expect("ask", "a=100 b=-")?;
    program.finish()
}

/// No memory that was written to becomes executable.
#[test]
fn no_new_code() -> Result<()> {
    let Some(place) = as_root("no_new_code")? else {
        return Ok(());
    };
    let program = match place.start(&["no-new-code"]) {
        Ok(program) => program,
        Err(error) => {
            skip(
                "no_new_code",
                &format!("PR_SET_MDWE does not work here: {error:#}"),
            );
            return Ok(());
        }
    };
    place.library_comes_later(program)
}

#[test]
fn a_process_that_must_not_be_dumped() -> Result<()> {
    let Some(place) = as_root("a_process_that_must_not_be_dumped")? else {
        return Ok(());
    };
    place.library_comes_later(place.start(&["undumpable"])?)
}

#[test]
fn a_process_of_another_user() -> Result<()> {
    let Some(place) = as_root("a_process_of_another_user")? else {
        return Ok(());
    };
    place.library_comes_later(place.start_as(NOBODY, &[])?)
}

#[test]
fn an_ordinary_users_own_process() -> Result<()> {
    let Some(place) = as_root("an_ordinary_users_own_process")? else {
        return Ok(());
    };
    let mut program = place.start_as(NOBODY, &[])?;
    let pid = program.pid().to_string();
    let before = Snapshot::take(program.pid())?;
    place
        .engraft_as(NOBODY, &["apply", &place.patch, "--pid", &pid])?
        .exits(exit::OK)?;
    program.expect("ask", "a=101 b=-")?;
    place.expect_patched_library(&mut program)?;
    place
        .engraft_as(NOBODY, &["disable", "fix", "--pid", &pid])?
        .exits(exit::OK)?;
    program.expect("ask", "a=100 b=-")?;
    before.expect_same_text()?;
    program.finish()
}

/// A victim, its patch, and the command, all where every user can read them.
struct Place {
    victim: Victim,
    patch: String,
    engraft: Engraft,
}

fn as_root(test: &str) -> Result<Option<Place>> {
    if !is_root()? {
        skip(
            test,
            "only root can suspend filters and start programs as others",
        );
        return Ok(None);
    }
    let victim = victim("confined")?;
    let patch = victim.patch(&engraft(), "fix.patch", "fix", &["confined", "library.so"])?;
    let patch = copy_for_all(&patch, &victim)?;
    let engraft = Engraft::new(copy_for_all(engraft().program(), &victim)?);
    let patch = patch.to_str().context("a path that is no text")?.to_owned();
    Ok(Some(Place {
        victim,
        patch,
        engraft,
    }))
}

fn copy_for_all(file: &Path, victim: &Victim) -> Result<PathBuf> {
    let copy = victim
        .file("for-all")
        .with_added_extension(file.file_name().unwrap_or_default());
    fs::copy(file, &copy)?;
    fs::set_permissions(&copy, Permissions::from_mode(0o755))?;
    Ok(copy)
}

impl Place {
    fn start(&self, arguments: &[&str]) -> Result<Program> {
        Self::ready(Program::start(&self.victim.file("confined"), arguments)?)
    }

    fn start_as(&self, user: &str, arguments: &[&str]) -> Result<Program> {
        let program = self.victim.file("confined");
        let program = program.to_str().context("a path that is no text")?;
        let become_user = ["--reuid", user, "--regid", user, "--clear-groups", program];
        let arguments = [&become_user, arguments].concat();
        Self::ready(Program::start(Path::new("setpriv"), &arguments)?)
    }

    fn ready((program, said): (Program, String)) -> Result<Program> {
        anyhow::ensure!(said == "ready", "the program {said}");
        Ok(program)
    }

    fn engraft_as(&self, user: &str, arguments: &[&str]) -> Result<engraft_testkit::Outcome> {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", user, "--regid", user, "--clear-groups"]);
        command.arg(self.engraft.program()).args(arguments);
        run(&mut command, TIME_LIMIT)
    }

    fn patched_and_back(&self, mut program: Program) -> Result<()> {
        let pid = program.pid();
        program.expect("ask", "a=100 b=-")?;
        let before = Snapshot::take(pid)?;
        for _ in 0..2 {
            self.engraft
                .apply(Path::new(&self.patch), pid)?
                .exits(exit::OK)?;
            program.expect("ask", "a=101 b=-")?;
            self.engraft.disable("fix", pid)?.exits(exit::OK)?;
            program.expect("ask", "a=100 b=-")?;
            before.expect_same_text()?;
        }
        program.finish()
    }

    fn library_comes_later(&self, mut program: Program) -> Result<()> {
        let pid = program.pid();
        let before = Snapshot::take(pid)?;
        self.engraft
            .apply(Path::new(&self.patch), pid)?
            .exits(exit::OK)?;
        self.expect_patched_library(&mut program)?;
        self.expect_patched_library(&mut program)?;
        self.engraft.disable("fix", pid)?.exits(exit::OK)?;
        program.expect("ask", "a=100 b=-")?;
        before.expect_same_text()?;
        program.finish()
    }

    fn expect_patched_library(&self, program: &mut Program) -> Result<()> {
        let open = format!("open {}", self.victim.file("library.so").display());
        program.expect(&open, "opened")?;
        program.expect("seen", "b=101")?;
        program.expect("ask", "a=101 b=101")?;
        program.expect("close", "closed")
    }
}
