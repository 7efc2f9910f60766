//! The other half of `storm.rs`: what sees no fault there does see one where there is one.
//!
//! A tool as simple as can be leads the five functions to their new code one after the other, from
//! outside and without any transition. It only takes care that no thread is in the bytes that it
//! writes. In between, threads run old and new functions in one chain, and the program must say so.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use engraft_testkit::{TIME_LIMIT, Victim, exit, run};
use object::{Object, ObjectSymbol};

use crate::storm::Counts;
use crate::victims;

/// Length of a direct jump.
const JUMP: u64 = 5;

#[test]
fn jumps_without_a_transition_are_seen_as_violations() -> Result<()> {
    let victim = Victim::build_with(&victims().join("storm"), &["control"])?;
    let mut program = victim.start("control", &[])?;
    let tool = Tool::new(&victim.file("control"), program.pid())?;
    program.expect("allow 1 2", "ok")?;
    program.expect("round", &Counts::all(1))?;
    program.expect("violations", "mixed=0 stale=0")?;

    // The last one first: from the first one on, nothing would lead back to the old ones.
    for number in (1..=5).rev() {
        tool.lead_to_new_code(&format!("f{number}"))?;
        let said = program.ask("round")?;
        let counts = Counts::read(&said)?;
        if number > 1 {
            ensure!(counts.mixed > 0, "not seen with f{number}: {said}");
        }
    }
    // All five lead to their new code now, and again all is well, but for what was.
    program.expect("round", &Counts::all(2))?;
    let violations = program.ask("violations")?;
    ensure!(violations != "mixed=0 stale=0", "{violations}");
    ensure!(violations.ends_with(" stale=0"), "{violations}");
    program.expect("round", &Counts::all(2))?;
    program.expect("violations", &violations)?;

    // The other thing that the program looks at: nobody allowed version 2 any more.
    program.expect("allow 1", "ok")?;
    program.expect("round", &Counts::all(2))?;
    let violations = program.ask("violations")?;
    ensure!(!violations.ends_with(" stale=0"), "{violations}");
    program.finish()
}

/// Writes jumps into a process.
pub(crate) struct Tool {
    pid: u32,
    memory: File,
    /// Names and addresses in the process.
    functions: Vec<(String, u64)>,
}

impl Tool {
    pub(crate) fn new(path: &Path, pid: u32) -> Result<Self> {
        let data = fs::read(path)?;
        let file = object::File::parse(&*data)?;
        // Position-independent: the file's address 0 is where its first mapping begins.
        let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let start = maps.split('-').next().context("no mappings")?;
        let base = u64::from_str_radix(start, 16)?;
        let functions = file.symbols().filter_map(|symbol| {
            let name = symbol.name().ok()?.to_owned();
            Some((name, base + symbol.address()))
        });
        let memory = File::options()
            .read(true)
            .write(true)
            .open(format!("/proc/{pid}/mem"))?;
        Ok(Self {
            pid,
            memory,
            functions: functions.collect(),
        })
    }

    fn address(&self, name: &str) -> Result<u64> {
        let found = self.functions.iter().find(|(other, _)| other == name);
        Ok(found.with_context(|| format!("no function {name}"))?.1)
    }

    /// Writes a jump at the old function's entry.
    pub(crate) fn lead_to_new_code(&self, old: &str) -> Result<()> {
        let (from, to) = (self.address(old)?, self.address(&format!("new_{old}"))?);
        let distance = i32::try_from(to.wrapping_sub(from + JUMP).cast_signed())?;
        let mut jump = [0xe9; JUMP as usize];
        jump[1..].copy_from_slice(&distance.to_le_bytes());
        loop {
            self.signal("STOP")?;
            let threads = self.wait_until_stopped()?;
            let in_the_way = threads
                .iter()
                .any(|pc| (from + 1..from + JUMP).contains(pc));
            if !in_the_way {
                self.memory.write_all_at(&jump, from)?;
            }
            self.signal("CONT")?;
            if !in_the_way {
                return Ok(());
            }
        }
    }

    fn signal(&self, name: &str) -> Result<()> {
        let line = format!("kill -{name} {}", self.pid);
        run(Command::new("sh").args(["-c", &line]), TIME_LIMIT)?.exits(exit::OK)?;
        Ok(())
    }

    /// Where all threads are when the last one has stopped.
    fn wait_until_stopped(&self) -> Result<Vec<u64>> {
        let mut places = Vec::new();
        for task in fs::read_dir(format!("/proc/{}/task", self.pid))? {
            let task = task?.path();
            while !fs::read_to_string(task.join("stat"))?.contains(") T ") {
                std::thread::yield_now();
            }
            // The call's number, its arguments, the stack pointer, and last where it goes on.
            let place = fs::read_to_string(task.join("syscall"))?;
            let pc = place.trim_end().rsplit(" 0x").next();
            let pc = pc.with_context(|| format!("failed to read {place:?}"))?;
            places.push(u64::from_str_radix(pc, 16)?);
        }
        Ok(places)
    }
}
