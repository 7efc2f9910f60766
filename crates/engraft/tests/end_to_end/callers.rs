//! What asks the dynamic loader for its own module's sake gets the same answers from new code as
//! from old.

use std::path::Path;

use anyhow::{Result, ensure};
use engraft_testkit::{Engraft, Glibc, Program, Victim, exit, skip};

use crate::{engraft, victim, victims};

const BINARIES: [&str; 2] = ["callers", "libasking.so"];
/// What is asked; the loader's answers depend on who asks.
const QUESTIONS: [&str; 6] = ["next", "version", "open", "known", "own", "tail"];
/// The first one ends a program with an old glibc if it is asked in another namespace, patched or
/// not.
const ANY_NAMESPACE: usize = 1;

#[test]
fn through_the_plt() -> Result<()> {
    is_the_same(&victim("callers")?, false)
}

#[test]
fn through_got_slots() -> Result<()> {
    is_the_same(
        &Victim::build_with(&victims().join("callers"), &["CALLS=-fno-plt"])?,
        false,
    )
}

#[test]
fn optimised_for_size() -> Result<()> {
    let flags = "CFLAGS=-Os -g -D_GNU_SOURCE";
    is_the_same(
        &Victim::build_with(&victims().join("callers"), &[flags])?,
        false,
    )
}

#[test]
fn in_a_program_at_a_fixed_place() -> Result<()> {
    let flags = "KIND=-no-pie -fno-pie";
    let sources = victims().join("callers");
    is_the_same(&Victim::build_with(&sources, &[flags])?, false)
}

fn is_the_same(victim: &Victim, is_old: bool) -> Result<()> {
    let engraft = engraft();
    let patch = victim.patch(&engraft, "fix.patch", "fix", &BINARIES)?;
    for library in [None, Some(victim.file("libasking.so"))] {
        let arguments: Vec<_> = library.iter().collect();
        let (mut program, _) = Program::start(&victim.file("callers"), &arguments)?;
        let questions = match library.is_some() && is_old {
            true => QUESTIONS.get(ANY_NAMESPACE..).unwrap_or_default(),
            false => &QUESTIONS,
        };
        let old = answers(&mut program, questions)?;
        if library.is_none() {
            // They are what they are for this program, and not, say, all that nothing was found.
            let expected = ["old 3 1", "old 1", "old found", "old 1", "old 2", "tail 2"];
            ensure!(old == expected, "{old:?}");
        }
        if questions.len() == QUESTIONS.len() {
            program.expect("deep", &old[0])?;
        }
        engraft.apply(&patch, program.pid())?.exits(exit::OK)?;
        let new = answers(&mut program, questions)?;
        let as_before: Vec<String> = new.iter().map(|it| it.replace("new", "old")).collect();
        ensure!(as_before == old, "before: {old:?}, now: {new:?}");
        // Of a function that only the fix has, and through a tail call in it.
        if questions.len() == QUESTIONS.len() {
            let next = old[0].split(' ').nth(1).unwrap_or_default();
            program.expect("deep", &format!("new {next} {next}"))?;
        }
        engraft.disable("fix", program.pid())?.exits(exit::OK)?;
        ensure!(answers(&mut program, questions)? == old, "not as before");
        engraft
            .run(["remove", "fix", "--pid", &program.pid().to_string()])?
            .exits(exit::OK)?;
        program.finish()?;
    }
    in_the_old_universe(&engraft, victim, &patch)
}

fn answers(program: &mut Program, questions: &[&str]) -> Result<Vec<String>> {
    let answers = questions.iter().map(|question| program.ask(question));
    answers.collect()
}

/// The first instructions of an old function, moved, call the loader while a thread that cannot
/// switch runs them.
fn in_the_old_universe(engraft: &Engraft, victim: &Victim, patch: &Path) -> Result<()> {
    let mut program = victim.start("callers", &[])?;
    let pid = program.pid().to_string();
    let patch = patch.to_string_lossy();
    program.expect("hold", "holding")?;
    let apply = ["apply", &patch, "--pid", &pid, "--timeout", "0"];
    engraft.run(apply)?.exits(exit::TARGET_BUSY)?;
    program.expect("go on", "old 1")?;
    engraft.run(["wait", "--pid", &pid])?.exits(exit::OK)?;
    program.expect("hold", "holding")?;
    program.expect("go on", "new 2")?;
    program.finish()
}

#[test]
fn with_the_loaders_of_other_glibcs() -> Result<()> {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("debian");
    for release in ["bullseye", "trixie"] {
        let glibc = match Glibc::fetch(release, &cache) {
            Ok(glibc) => glibc,
            Err(error) => {
                let reason = format!("failed to fetch the glibc of {release}: {error:#}");
                skip(
                    &format!("callers::with_the_loaders_of_other_glibcs ({release})"),
                    &reason,
                );
                continue;
            }
        };
        println!("glibc {}", glibc.version);
        let arguments = glibc.make_arguments();
        let arguments = arguments.each_ref().map(String::as_str);
        is_the_same(
            &Victim::build_with(&victims().join("callers"), &arguments)?,
            true,
        )?;
    }
    Ok(())
}

/// Who calls by an address that new code hands out is not known.
#[test]
fn not_by_address() -> Result<()> {
    let victim = victim("callers")?;
    let (outcome, _) = victim.try_patch(&engraft(), "pointer.patch", "fix", &["libasking.so"])?;
    outcome
        .exits(exit::BUILD_FAILED)?
        .says(&["next takes the address of dlsym", "calls dlsym directly"])?;
    Ok(())
}
