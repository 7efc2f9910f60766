//! A bug of the agent's, a panic, costs the program nothing but its patches' growth: commands say
//! that the agent is broken, libraries that patches concern are refused, others come in and are
//! counted, and what is patched stays so.
//!
//! There is no such bug to be had, so the test writes one: a jump to the panic handler over a
//! function of the agent's.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use engraft_testkit::{Program, Victim, exit};
use object::{Object, ObjectSymbol};

use crate::{engraft, victim};

/// The agent as it is in the command under test.
static AGENT: &[u8] = include_bytes!(env!("ENGRAFT_AGENT_BLOB"));

/// Where a function of the agent is, by a part of its symbol, in its file.
fn offset(part: &str) -> Result<u64> {
    let file = object::File::parse(AGENT)?;
    let mut found = file.symbols().filter(|symbol| {
        let name = symbol.name().unwrap_or_default();
        symbol.is_definition() && name.contains(part) && !name.contains("6broken")
    });
    let symbol = found.next().context(part.to_owned())?;
    ensure!(found.next().is_none(), "{part} is ambiguous");
    Ok(symbol.address())
}

/// Where the agent's code begins in a process: that of the entry for commands is known.
fn base(pid: u32) -> Result<u64> {
    let enter = offset("engraft_agent_enter")?;
    let start = usize::try_from(enter & !0xfff)?;
    let page = AGENT.get(start..start + 0x1000).context("no code")?;
    let memory = fs::File::open(format!("/proc/{pid}/mem"))?;
    for line in fs::read_to_string(format!("/proc/{pid}/maps"))?.lines() {
        let (range, rest) = line.split_once(' ').context("maps")?;
        let (from, to) = range.split_once('-').context("maps")?;
        let (from, to) = (u64::from_str_radix(from, 16)?, u64::from_str_radix(to, 16)?);
        if !rest.starts_with("r-x") {
            continue;
        }
        for at in (from..to).step_by(0x1000) {
            let mut found = vec![0; 0x1000];
            // The page of the entry holds no address, so it is the same everywhere.
            if memory.read_exact_at(&mut found, at).is_ok() && found == page {
                return Ok(at - (enter & !0xfff));
            }
        }
    }
    anyhow::bail!("there is no agent in process {pid}")
}

/// The next call of this function of the agent panics, and each one after that.
fn write_a_bug(pid: u32, function: &str) -> Result<()> {
    let base = base(pid)?;
    let (at, handler) = (offset(function)?, offset("rust_begin_unwind")?);
    let distance = i32::try_from(handler.cast_signed() - at.cast_signed() - 5)?;
    let mut jump = vec![0xe9];
    jump.extend(distance.to_le_bytes());
    let memory = OpenOptions::new()
        .write(true)
        .open(format!("/proc/{pid}/mem"))?;
    Ok(memory.write_all_at(&jump, base + at)?)
}

/// A program with a patch for itself and for a library that is not loaded yet.
fn patched() -> Result<(Victim, Program)> {
    let (engraft, victim) = (engraft(), victim("host")?);
    let patch = victim.patch(&engraft, "p1.patch", "p1", &["host", "library.so"])?;
    let mut program = victim.start("host", &[])?;
    engraft.apply(&patch, program.pid())?.exits(exit::OK)?;
    program.expect("ask", "a=101 b=-")?;
    Ok((victim, program))
}

/// Fails unless every command says that the agent is broken, and status, how many loads it has let
/// in.
fn says_that_it_is_broken(program: &mut Program, loads: u64) -> Result<()> {
    let (engraft, pid) = (engraft(), program.pid());
    let disabled = engraft.disable("p1", pid)?.exits(exit::NOT_PATCHABLE)?;
    disabled.says(&["its own state damaged"])?;
    let agent = &engraft.status(pid)?["agent"];
    ensure!(agent["broken"] == true, "{agent}");
    ensure!(agent["loads_since_broken"] == loads, "{agent}");
    engraft
        .run(["status", "--pid", &pid.to_string()])?
        .exits(exit::OK)?
        .says(&["refuses all changes"])?;
    program.expect("ask", "a=101 b=-")
}

#[test]
fn a_command_in_which_the_agent_panics_fails() -> Result<()> {
    let (victim, mut program) = patched()?;
    write_a_bug(program.pid(), "carry_out")?;
    says_that_it_is_broken(&mut program, 0)?;
    // The bug is not met again, and it is broken still.
    says_that_it_is_broken(&mut program, 0)?;
    libraries_are_told_apart(&victim, &mut program)?;
    says_that_it_is_broken(&mut program, 1)?;
    program.finish()
}

#[test]
fn a_load_in_which_the_agent_panics_is_refused() -> Result<()> {
    let (victim, mut program) = patched()?;
    write_a_bug(program.pid(), "loader_event")?;
    libraries_are_told_apart(&victim, &mut program)?;
    says_that_it_is_broken(&mut program, 1)?;
    program.finish()
}

/// One that the patch concerns is refused, with words, again and again; another one comes in.
fn libraries_are_told_apart(victim: &Victim, program: &mut Program) -> Result<()> {
    let open = format!("open {}", victim.file("library.so").display());
    for _ in 0..3 {
        let refusal = program.ask(&open)?;
        ensure!(
            refusal.starts_with("refused: ")
                && refusal.contains("engraft: a patch concerns this library"),
            "the answer was {refusal:?}"
        );
        program.expect("ask", "a=101 b=-")?;
    }
    program.expect("open libm.so.6", "opened")?;
    program.expect("close", "closed")
}
