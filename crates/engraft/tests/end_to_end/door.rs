//! Threads that sleep in a replaced function nearly all the time, and call it again at once when it
//! returns, switch at that next call, by themselves: no command has to look at them, or be there at
//! all.

use std::path::PathBuf;
use std::process::Stdio;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use engraft_testkit::{Engraft, Outcome, Program, Snapshot, TIME_LIMIT, Victim, exit, run};

use crate::{engraft, victim};

/// The program, a patch for it, and what is in memory without it.
pub(crate) struct Door {
    engraft: Engraft,
    victim: Rc<Victim>,
    patch: PathBuf,
    pub(crate) program: Program,
    pub(crate) before: Snapshot,
}

impl Door {
    pub(crate) fn new(threads: &[(&str, usize)]) -> Result<Self> {
        let (engraft, victim) = (engraft(), victim("door")?);
        let patch = victim.patch(&engraft, "fix.patch", "door", &["door"])?;
        Self::start(engraft, Rc::new(victim), patch, threads)
    }

    /// A fresh process of the same program.
    pub(crate) fn another(&self, threads: &[(&str, usize)]) -> Result<Self> {
        Self::start(engraft(), self.victim.clone(), self.patch.clone(), threads)
    }

    fn start(
        engraft: Engraft,
        victim: Rc<Victim>,
        patch: PathBuf,
        threads: &[(&str, usize)],
    ) -> Result<Self> {
        let mut program = victim.start("door", &[])?;
        for (kind, count) in threads {
            program.expect(&format!("start {kind} {count}"), "ok")?;
        }
        let before = Snapshot::take(program.pid())?;
        Ok(Self {
            engraft,
            victim,
            patch,
            program,
            before,
        })
    }

    /// `apply`, or `disable` of the patch, until the transition is open and every thread has a
    /// door: all are inside.
    pub(crate) fn begin(&self, command: &str) -> Result<Outcome> {
        let mut outcome = self.open(command)?;
        while !self.all_have_doors()? {
            outcome = self.command("wait", None)?.exits(exit::TARGET_BUSY)?;
        }
        Ok(outcome)
    }

    /// The same, whether threads have doors or not.
    fn open(&self, command: &str) -> Result<Outcome> {
        loop {
            let outcome = self.command(command, None)?.exits(exit::TARGET_BUSY)?;
            // A busy machine may leave no time to open it.
            if self.waiting()?.is_some() {
                return Ok(outcome);
            }
        }
    }

    /// A command that does not wait for long, with a variable that makes one of its effects
    /// special.
    pub(crate) fn command(
        &self,
        command: &str,
        variable: Option<(&str, usize)>,
    ) -> Result<Outcome> {
        let mut line = self.engraft.command([command]);
        match command {
            "apply" => line.arg(&self.patch),
            _ => line.arg("door"),
        };
        line.args(["--pid", &self.program.pid().to_string(), "--timeout", "1"]);
        if let Some((name, value)) = variable {
            line.env(name, value.to_string());
        }
        run(&mut line, TIME_LIMIT)
    }

    fn all_have_doors(&self) -> Result<bool> {
        let status = self.engraft.status(self.program.pid())?;
        let threads = status["transition"]["threads"].as_array();
        let threads = threads.context("no transition is open")?;
        Ok(threads.iter().all(|thread| thread["at_next_call"] == true))
    }

    pub(crate) fn waiting(&self) -> Result<Option<u64>> {
        let status = self.engraft.status(self.program.pid())?;
        Ok(status["transition"]["waiting"].as_u64())
    }

    /// Lets all go on until they are inside again.
    pub(crate) fn turn(&mut self, expected: &str) -> Result<()> {
        self.program.expect("turn", expected)
    }

    /// Waits for the end of the transition, for which nothing is left to happen.
    pub(crate) fn wait(&self) -> Result<()> {
        let pid = self.program.pid().to_string();
        let wait = ["wait", "door", "--timeout", "50", "--pid", &pid];
        self.engraft.run(wait)?.exits(exit::OK)?;
        Ok(())
    }

    /// Takes the patch out with all threads inside of it, and looks whether the code is what it
    /// was.
    fn take_back(mut self, count: usize) -> Result<()> {
        self.begin("disable")?;
        ensure!(
            self.waiting()? == Some(count as u64),
            "{:?}",
            self.waiting()
        );
        self.turn(&format!(
            "ended 1=0 2={count} mixed=0, inside 1={count} 2=0"
        ))?;
        ensure!(self.waiting()? == Some(0), "{:?}", self.waiting());
        self.wait()?;
        self.turn(&format!(
            "ended 1={count} 2=0 mixed=0, inside 1={count} 2=0"
        ))?;
        self.before.expect_same_text()?;
        self.program.finish()
    }
}

/// No command is there when the threads leave.
#[test]
fn each_switches_at_its_next_call() -> Result<()> {
    for count in [1, 100] {
        let mut door = Door::new(&[("plain", count)])?;
        let each = match count {
            1 => "by itself at its next call",
            _ => "each by itself at its next call",
        };
        door.begin("apply")?.says(&[each])?;
        let status = door.engraft.status(door.program.pid())?;
        let transition = &status["transition"];
        ensure!(transition["waiting"] == count, "{status}");
        let threads = transition["threads"].as_array().context("no threads")?;
        ensure!(threads.len() == count, "{status}");
        let switch = threads.iter().all(|thread| thread["at_next_call"] == true);
        ensure!(switch, "{status}");
        door.turn(&format!(
            "ended 1={count} 2=0 mixed=0, inside 1=0 2={count}"
        ))?;
        ensure!(door.waiting()? == Some(0), "{:?}", door.waiting());
        door.turn(&format!(
            "ended 1=0 2={count} mixed=0, inside 1=0 2={count}"
        ))?;
        door.wait()?;
        door.turn(&format!(
            "ended 1=0 2={count} mixed=0, inside 1=0 2={count}"
        ))?;
        door.take_back(count)?;
    }
    Ok(())
}

/// The command is killed as soon as the transition is open.
#[test]
fn the_command_has_been_killed() -> Result<()> {
    let mut door = Door::new(&[("plain", 3)])?;
    let mut apply = door.engraft.command(["apply"]);
    apply.arg(&door.patch).args(["--timeout", "100"]);
    apply.args(["--pid", &door.program.pid().to_string()]);
    let mut apply = apply.stderr(Stdio::null()).spawn()?;
    while door.waiting()? != Some(3) {
        ensure!(apply.try_wait()?.is_none(), "the command has ended");
    }
    apply.kill()?;
    apply.wait()?;
    door.turn("ended 1=3 2=0 mixed=0, inside 1=0 2=3")?;
    ensure!(door.waiting()? == Some(0), "{:?}", door.waiting());
    door.wait()?;
    door.take_back(3)
}

/// The command is there, and sees that the last thread has switched.
#[test]
fn the_command_ends_when_the_last_one_has_switched() -> Result<()> {
    let mut door = Door::new(&[("plain", 3)])?;
    let mut apply = door.engraft.command(["apply"]);
    apply.arg(&door.patch).args(["--timeout", "100"]);
    apply.args(["--pid", &door.program.pid().to_string()]);
    let mut apply = apply.stdout(Stdio::null()).spawn()?;
    while door.waiting()? != Some(3) {
        ensure!(apply.try_wait()?.is_none(), "the command has ended");
    }
    door.turn("ended 1=3 2=0 mixed=0, inside 1=0 2=3")?;
    ensure!(apply.wait()?.success(), "the command has failed");
    ensure!(door.waiting()?.is_none(), "{:?}", door.waiting());
    door.take_back(3)
}

/// The callers are code that no unwind table describes, so no walk goes beyond it. What lies there
/// is scanned.
#[test]
fn called_by_generated_code() -> Result<()> {
    let mut door = Door::new(&[("generated", 3)])?;
    door.begin("apply")?;
    door.turn("ended 1=3 2=0 mixed=0, inside 1=0 2=3")?;
    ensure!(door.waiting()? == Some(0), "{:?}", door.waiting());
    door.wait()?;
    door.take_back(3)
}

/// The next call comes from far below the stack that was walked, or from above it. It shuts the
/// door, and the next look opens another one.
#[test]
fn called_by_generated_code_from_another_place() -> Result<()> {
    let mut door = Door::new(&[("moving", 2)])?;
    door.begin("apply")?;
    door.turn("ended 1=2 2=0 mixed=0, inside 1=2 2=0")?;
    while !door.all_have_doors()? {
        door.command("wait", None)?.exits(exit::TARGET_BUSY)?;
    }
    door.turn("ended 1=2 2=0 mixed=0, inside 1=0 2=2")?;
    door.wait()?;
    door.take_back(2)
}

/// Beyond the generated code is another call of the replaced function. The thread gets no door for
/// the inner call: the next inner call, from the same place, is one of the old code still.
#[test]
fn replaced_code_beyond_generated_code() -> Result<()> {
    let mut door = Door::new(&[("nested", 1)])?;
    // In the first inner call of the second outer one.
    for _ in 0..4 {
        door.program.ask("turn")?;
    }
    door.open("apply")?;
    ensure!(!door.all_have_doors()?, "the thread has a door");
    for _ in 0..6 {
        let said = door.program.ask("turn")?;
        ensure!(said.contains("mixed=0"), "{said}");
    }
    Ok(())
}

/// A transition that is taken back: whoever is inside stays in the universe that is to be kept, and
/// whoever has switched comes back at its next call.
#[test]
fn taken_back_on_the_way() -> Result<()> {
    let mut door = Door::new(&[("plain", 2)])?;
    door.begin("apply")?;
    // Nobody has switched: nobody has to come back.
    let pid = door.program.pid().to_string();
    let disable = ["disable", "door", "--timeout", "50", "--pid", &pid];
    door.engraft.run(disable)?.exits(exit::OK)?;
    door.turn("ended 1=2 2=0 mixed=0, inside 1=2 2=0")?;
    door.begin("apply")?;
    door.turn("ended 1=2 2=0 mixed=0, inside 1=0 2=2")?;
    // Both have switched and are inside.
    door.begin("disable")?;
    ensure!(door.waiting()? == Some(2), "{:?}", door.waiting());
    door.turn("ended 1=0 2=2 mixed=0, inside 1=2 2=0")?;
    door.wait()?;
    door.before.expect_same_text()?;
    door.program.finish()
}

/// What runs at the entry of a function where the old one's last call is a jump is the old one's
/// call still, although the stack is as if its caller had called. The thread does not switch there,
/// nor in a coroutine or a handler whose stack lies where the thread's own frames are.
#[test]
fn a_call_of_the_old_code_leads_to_old_code() -> Result<()> {
    let mut door = Door::new(&[("jump", 1), ("coroutine", 1), ("signal", 1)])?;
    door.open("apply")?;
    let said = door.program.ask("turn")?;
    ensure!(said.starts_with("ended 1=3 2=0 mixed=0"), "{said}");
    for _ in 0..10 {
        let said = door.program.ask("turn")?;
        ensure!(said.contains("mixed=0"), "{said}");
    }
    Ok(())
}

/// From two places by turns: each at the next call that shows that it has left.
#[test]
fn calls_from_other_places() -> Result<()> {
    let mut door = Door::new(&[("turns", 4)])?;
    door.begin("apply")?;
    for _ in 0..3 {
        let said = door.program.ask("turn")?;
        ensure!(said.contains("mixed=0"), "{said}");
    }
    ensure!(door.waiting()? == Some(0), "{:?}", door.waiting());
    door.wait()?;
    door.turn("ended 1=0 2=4 mixed=0, inside 1=0 2=4")?;
    door.program.finish()
}
