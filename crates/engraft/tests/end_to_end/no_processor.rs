//! A program that gets no processor for seconds cannot stop for us: it is waited for, and nothing
//! is lost.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use engraft_testkit::{Program, Snapshot, TIME_LIMIT, exit, is_root, run, skip};

use crate::{engraft, victim};

/// Longer than one stop may take.
const SECONDS: &str = "4";

/// What computes in the place of everybody with less weight, for some seconds.
struct Hog(Child);

impl Hog {
    fn start(processor: &str) -> Result<Self> {
        let mut command = Command::new("nice");
        command.args(["-n", "-20", "taskset", "-c", processor]);
        command.args(["timeout", SECONDS, "sh", "-c", "echo; while :; do :; done"]);
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().context("no output")?;
        // Until it computes.
        std::io::Read::read_exact(&mut { output }, &mut [0])?;
        Ok(Self(child))
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_program_that_gets_no_processor_for_seconds_is_waited_for() -> Result<()> {
    if !is_root()? {
        skip(
            "a_program_that_gets_no_processor_for_seconds_is_waited_for",
            "only root may take all of a processor",
        );
        return Ok(());
    }
    let (engraft, victim) = (engraft(), victim("answer")?);
    let patch = victim.patch(&engraft, "fix.patch", "fix", &["answer"])?;
    let processor = a_processor()?;
    let mut arguments = vec!["-c", &processor, "chrt", "--idle", "0"];
    let file = victim.file("answer");
    arguments.push(file.to_str().context("a path that is no text")?);
    let (mut program, _) = Program::start(Path::new("taskset"), &arguments)?;
    let pid = program.pid().to_string();
    program.expect("seven", "old: seven, 1")?;
    let before = Snapshot::take(program.pid())?;
    for (command, what, answer) in [
        ("apply", patch.to_str().context("no text")?, "new: seven, 2"),
        ("disable", "fix", "old: seven, 3"),
    ] {
        let hog = Hog::start(&processor)?;
        let mut command = engraft.command([command, what, "--pid", &pid, "--timeout", "60"]);
        run(&mut command, TIME_LIMIT)?.exits(exit::OK)?;
        drop(hog);
        program.expect("seven", answer)?;
    }
    before.expect_same_text()?;
    program.finish()
}

/// One of those that we may use.
fn a_processor() -> Result<String> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let first = list.context("no list of processors")?.trim();
    let first: String = first.chars().take_while(char::is_ascii_digit).collect();
    ensure!(!first.is_empty(), "no processor");
    Ok(first)
}
