//! A program and the command, on which the measurements are made.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use engraft_testkit::{Engraft, Outcome, Program, Victim, exit};

use crate::cargo;

/// A built program of `bench/` that can be started many times, and the command.
pub(super) struct Scene<'a> {
    pub(super) engraft: &'a Engraft,
    pub(super) victim: Victim,
    program: &'static str,
}

impl<'a> Scene<'a> {
    /// The program has the name of its directory.
    pub(super) fn new(engraft: &'a Engraft, program: &'static str) -> Result<Self> {
        let victim = Victim::build(&cargo::workspace().join("bench").join(program))?;
        Ok(Self {
            engraft,
            victim,
            program,
        })
    }

    /// A patch of the program, with this name.
    pub(super) fn patch(&self, fix: &str, name: &str) -> Result<PathBuf> {
        self.victim.patch(self.engraft, fix, name, &[self.program])
    }

    /// A fresh process.
    pub(super) fn start(&self, arguments: &[&str]) -> Result<Program> {
        self.victim.start(self.program, arguments)
    }

    /// A command on a patch of one process, which must succeed.
    pub(super) fn give(&self, command: &str, what: &str, program: &Program) -> Result<Outcome> {
        let pid = program.pid().to_string();
        let arguments = [command, what, "--pid", &pid, "--timeout", "50"];
        self.engraft.run(arguments)?.exits(exit::OK)
    }
}

/// The number after `name=` in an answer.
pub(super) fn figure(answer: &str, name: &str) -> Result<f64> {
    let mut words = answer.split(' ').filter_map(|word| word.split_once('='));
    let found = words.find(|(key, _)| *key == name);
    let figure = found.and_then(|(_, value)| value.parse().ok());
    figure.with_context(|| format!("failed to read {name} in the answer {answer:?}"))
}

/// Asks and reads the one number of the answer.
pub(super) fn ask(program: &mut Program, line: &str, name: &str) -> Result<f64> {
    figure(&program.ask(line)?, name)
}

pub(super) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Measures in this number of fresh processes, and shows the progress.
pub(super) fn in_each<T>(
    what: &str,
    processes: usize,
    mut measure: impl FnMut() -> Result<T>,
) -> Result<Vec<T>> {
    ensure!(processes > 0, "nothing to measure with no process");
    eprintln!("{what}: {processes} processes ...");
    (0..processes).map(|_| measure()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_found_by_its_name() {
        assert_eq!(figure("a=1 late_ns=20", "late_ns").unwrap(), 20.0);
        assert!(figure("a=1 late_ns=x", "late_ns").is_err());
        assert!(figure("what?", "ns").is_err());
    }
}
