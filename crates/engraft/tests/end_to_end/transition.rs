//! What happens to a process while a transition is open: children, libraries, threads that come and
//! go. Each thread has one version of everything at any time, and the transition ends as soon as
//! the last one that was inside has left or has ended.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use engraft_testkit::{Engraft, Outcome, Program, Snapshot, TIME_LIMIT, Victim, exit, run};

use crate::{engraft, victim};

/// The program, and a patch for it with a name that no other test uses.
pub(crate) struct House {
    pub(crate) engraft: Engraft,
    pub(crate) victim: Victim,
    pub(crate) patch: PathBuf,
    pub(crate) name: String,
    pub(crate) program: Program,
    pub(crate) pid: u32,
}

fn start(victim: &Victim) -> Result<Program> {
    let mut program = victim.start("lodgers", &[])?;
    program.expect("a", "a=100")?;
    let library = victim.file("library.so");
    program.expect(&format!("library {}", library.display()), "ok")?;
    Ok(program)
}

impl House {
    pub(crate) fn new() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let (engraft, victim) = (engraft(), victim("lodgers")?);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("house-{}-{number}", std::process::id());
        let patch = victim.patch(&engraft, "fix.patch", &name, &["lodgers", "library.so"])?;
        let program = start(&victim)?;
        Ok(Self {
            pid: program.pid(),
            engraft,
            victim,
            patch,
            name,
            program,
        })
    }

    /// Ends this process, and goes on with another one.
    fn anew(&mut self) -> Result<()> {
        let program = std::mem::replace(&mut self.program, start(&self.victim)?);
        self.pid = self.program.pid();
        program.finish()
    }

    /// Starts a thread that goes into the function, or waits elsewhere; its number.
    pub(crate) fn start(&mut self, kind: &str) -> Result<u32> {
        let number = self.program.ask(&format!("start {kind}"))?;
        number.parse().with_context(|| number.clone())
    }

    /// Has a thread do something where it is.
    pub(crate) fn tell(&mut self, lodger: u32, what: &str, answer: &str) -> Result<()> {
        self.program
            .expect(&format!("tell {lodger} {what}"), answer)
    }

    /// A command for the process that does not wait for long.
    pub(crate) fn briefly(&self, arguments: &[&str]) -> Result<Outcome> {
        let pid = self.pid.to_string();
        let fixed = ["--pid", &pid, "--timeout", "1"];
        self.engraft
            .run(arguments.iter().copied().chain(fixed).map(str::to_owned))
    }

    /// Begins the transition, which stays open.
    pub(crate) fn begin(&self) -> Result<Outcome> {
        let mut apply = self.engraft.command(["apply"]);
        let pid = self.pid.to_string();
        apply
            .arg(&self.patch)
            .args(["--pid", &pid, "--timeout", "1"]);
        let outcome = run(&mut apply, TIME_LIMIT)?.exits(exit::TARGET_BUSY)?;
        // A thread that switches by itself is looked at once in that time, and a busy machine may
        // leave time for one look only.
        let looked = [" looks in ", "when it was looked at, after "];
        ensure!(
            looked.iter().any(|how| outcome.stderr.contains(how)),
            "{}",
            outcome.stderr
        );
        outcome.says(&[&self.name, "hint:"])
    }

    /// Waits for the end of the transition; in all processes that have it if `pid` is `None`.
    pub(crate) fn wait(&self, pid: Option<u32>) -> Result<Outcome> {
        let pid = pid.map(|pid| pid.to_string());
        let pid = pid.iter().flat_map(|pid| ["--pid", pid]);
        self.engraft.run(
            ["wait", &self.name, "--timeout", "50"]
                .into_iter()
                .chain(pid),
        )
    }

    /// Where the patch is in its life, how many threads have yet to switch, and who they are.
    pub(crate) fn state(&self, pid: u32) -> Result<(String, u64, Vec<String>)> {
        let status = self.engraft.status(pid)?;
        let state = status["patches"][0]["state"].as_str().unwrap_or("none");
        let transition = &status["transition"];
        let threads = transition["threads"].as_array().into_iter().flatten();
        let mut names: Vec<_> = threads
            .filter_map(|thread| thread["name"].as_str())
            .map(str::to_owned)
            .collect();
        names.sort();
        let waiting = transition["waiting"].as_u64().unwrap_or(0);
        Ok((state.to_owned(), waiting, names))
    }

    pub(crate) fn expect_state(&self, pid: u32, state: &str, waiting: u64) -> Result<()> {
        let found = self.state(pid)?;
        ensure!((&*found.0, found.1) == (state, waiting), "{found:?}");
        Ok(())
    }

    /// For a patch that is out already.
    pub(crate) fn take_back_disabled(mut self, before: &Snapshot) -> Result<()> {
        self.program.expect("a", "a=100")?;
        before.expect_same_text()?;
        self.program.finish()
    }

    /// Takes the patch out again, and looks whether the code is what it was.
    pub(crate) fn take_back(mut self, before: &Snapshot) -> Result<()> {
        self.engraft
            .disable(&self.name, self.pid)?
            .exits(exit::OK)?;
        self.program.expect("a", "a=100")?;
        before.expect_same_text()?;
        self.program.finish()
    }
}

/// One leaves, and the other still holds it up.
#[test]
fn two_threads_inside() -> Result<()> {
    let mut house = House::new()?;
    let (one, two) = (house.start("sleep")?, house.start("sleep")?);
    let before = Snapshot::take(house.pid)?;
    house.begin()?.says(&["2 threads have yet to switch"])?;
    house.program.expect("a", "a=101")?;
    let (.., names) = house.state(house.pid)?;
    ensure!(names == ["lodger-1", "lodger-2"], "{names:?}");
    house.tell(two, "leave", "100")?;
    house
        .briefly(&["wait", &house.name])?
        .exits(exit::TARGET_BUSY)?
        .says(&["1 thread has yet to switch", "lodger-1"])?;
    house.expect_state(house.pid, "enabling", 1)?;
    // The one that has left is as new as everybody else, the other one as old as ever.
    house.tell(two, "a", "101")?;
    house.tell(one, "a", "100")?;
    house.tell(one, "leave", "100")?;
    house.wait(Some(house.pid))?.exits(exit::OK)?;
    house.tell(one, "a", "101")?;
    house.expect_state(house.pid, "enabled", 0)?;
    house.take_back(&before)
}

/// The message is about the moment at which the time was up.
#[test]
fn the_count_of_a_command_that_looks_once() -> Result<()> {
    let mut house = House::new()?;
    let (_one, two) = (house.start("sleep")?, house.start("sleep")?);
    house.begin()?.says(&["2 threads have yet to switch"])?;
    house.tell(two, "leave", "100")?;
    let pid = house.pid.to_string();
    let wait = ["wait", &house.name, "--pid", &pid, "--timeout", "0"];
    let outcome = house.engraft.run(wait)?.exits(exit::TARGET_BUSY)?;
    outcome.says(&["1 thread has yet to switch", "lodger-1"])?;
    house.program.finish()
}

/// Whoever asks while the first patch comes gets an answer.
#[test]
fn the_status_while_the_agent_arrives() -> Result<()> {
    let mut house = House::new()?;
    for _ in 0..20 {
        house.anew()?;
        let (engraft, patch, pid) = (house.engraft.clone(), house.patch.clone(), house.pid);
        let apply = std::thread::spawn(move || engraft.apply(&patch, pid));
        while !apply.is_finished() {
            house.engraft.status(pid)?;
        }
        let outcome = apply.join().ok().context("the thread panicked")??;
        outcome.exits(exit::OK)?;
    }
    house.program.finish()
}

/// It never sleeps, and its stack never changes.
#[test]
fn a_thread_that_only_computes_inside() -> Result<()> {
    let mut house = House::new()?;
    let busy = house.start("spin")?;
    let before = Snapshot::take(house.pid)?;
    house.begin()?.says(&["lodger-1", "stay"])?;
    house.program.expect("a", "a=101")?;
    house.tell(busy, "a", "100")?;
    house.tell(busy, "leave", "100")?;
    house.wait(Some(house.pid))?.exits(exit::OK)?;
    house.tell(busy, "a", "101")?;
    house.take_back(&before)
}

/// A command that waits does not keep anybody from work: these calls are made while it waits.
#[test]
fn the_others_work_on_while_a_command_waits() -> Result<()> {
    let mut house = House::new()?;
    house.program.expect("work 4", "working")?;
    let holder = house.start("sleep")?;
    let before = Snapshot::take(house.pid)?;
    let (engraft, patch, pid) = (house.engraft.clone(), house.patch.clone(), house.pid);
    let apply = std::thread::spawn(move || engraft.apply(&patch, pid));
    while house.program.ask("a")? != "a=101" {
        ensure!(!apply.is_finished(), "{:?}", apply.join());
    }
    // What was called before the change and counted after it.
    house.program.ask("calls 100")?;
    let calls = house.program.ask("calls 3000")?;
    ensure!(
        calls.starts_with("old=0 new=3") && calls.ends_with(" other=0"),
        "{calls}"
    );
    ensure!(!apply.is_finished(), "it did not wait");
    house.tell(holder, "leave", "100")?;
    let outcome = apply.join().ok().context("the thread panicked")??;
    outcome.exits(exit::OK)?;
    house.take_back(&before)
}

/// The command that began it is killed while it waits: the transition is as open as before, and the
/// next one goes on with it, or turns it round.
#[test]
fn the_command_is_killed_while_it_waits() -> Result<()> {
    for back in [false, true] {
        let mut house = House::new()?;
        let holder = house.start("sleep")?;
        let before = Snapshot::take(house.pid)?;
        let mut apply = house.engraft.command(["apply"]);
        let pid = house.pid.to_string();
        apply
            .arg(&house.patch)
            .args(["--pid", &pid, "--timeout", "50"]);
        let mut apply = apply.spawn()?;
        while house.program.ask("a")? != "a=101" {
            ensure!(apply.try_wait()?.is_none(), "it has ended");
        }
        apply.kill()?;
        apply.wait()?;
        house.tell(holder, "a", "100")?;
        house.expect_state(house.pid, "enabling", 1)?;
        if back {
            house
                .engraft
                .disable(&house.name, house.pid)?
                .exits(exit::OK)?;
            house.tell(holder, "a", "100")?;
            house.take_back_disabled(&before)?;
        } else {
            house.tell(holder, "leave", "100")?;
            house.wait(Some(house.pid))?.exits(exit::OK)?;
            house.tell(holder, "a", "101")?;
            house.take_back(&before)?;
        }
    }
    Ok(())
}

/// The thread that is inside ends there: nobody is left to wait for.
#[test]
fn the_one_inside_ends() -> Result<()> {
    let mut house = House::new()?;
    let holder = house.start("sleep")?;
    let before = Snapshot::take(house.pid)?;
    house.begin()?;
    house.expect_state(house.pid, "enabling", 1)?;
    house.tell(holder, "exit", "0")?;
    house.wait(Some(house.pid))?.exits(exit::OK)?;
    house.expect_state(house.pid, "enabled", 0)?;
    house.program.expect("a", "a=101")?;

    // And backwards, out of new code.
    let holder = house.start("sleep")?;
    house
        .briefly(&["disable", &house.name])?
        .exits(exit::TARGET_BUSY)?;
    house.program.expect("a", "a=100")?;
    house.tell(holder, "a", "101")?;
    house.tell(holder, "exit", "0")?;
    house.wait(Some(house.pid))?.exits(exit::OK)?;
    house.expect_state(house.pid, "disabled", 0)?;
    before.expect_same_text()?;
    house.program.finish()
}

/// Threads that are born in a transition are new from the start, whoever makes them; the memory of
/// one that has ended serves the next one, and so does its thread pointer.
#[test]
fn threads_come_and_go() -> Result<()> {
    let mut house = House::new()?;
    let holder = house.start("sleep")?;
    house.program.expect("churn", "churning")?;
    let calls = house.program.ask("calls 200")?;
    ensure!(calls.ends_with("new=0 other=0"), "{calls}");
    let before = Snapshot::take(house.pid)?;
    house.begin()?;
    for _ in 0..5 {
        let calls = house.program.ask("calls 200")?;
        ensure!(
            calls.starts_with("old=0 ") && calls.ends_with(" other=0"),
            "{calls}"
        );
        house
            .briefly(&["wait", &house.name])?
            .exits(exit::TARGET_BUSY)?;
    }
    house.tell(holder, "a", "100")?;
    house.tell(holder, "exit", "0")?;
    // Whoever gets its stack now gets its thread pointer too.
    let next = house.start("outside")?;
    house.wait(Some(house.pid))?.exits(exit::OK)?;
    house.tell(next, "a", "101")?;
    let calls = house.program.ask("calls 200")?;
    ensure!(
        calls.starts_with("old=0 ") && calls.ends_with(" other=0"),
        "{calls}"
    );
    house.take_back(&before)
}

/// The child of a thread that has switched is a process in transition, though nobody in it is
/// inside.
#[test]
fn a_fork_outside() -> Result<()> {
    let mut house = House::new()?;
    let holder = house.start("sleep")?;
    let before = Snapshot::take(house.pid)?;
    house.begin()?;
    let child: u32 = house.program.ask("fork")?.parse()?;
    house.program.expect("child a", "101")?;
    ensure!(house.state(child)?.0 == "enabling");
    house.wait(Some(child))?.exits(exit::OK)?;
    house.expect_state(child, "enabled", 0)?;
    house.program.expect("child a", "101")?;
    // The parent is where it was.
    house.expect_state(house.pid, "enabling", 1)?;
    house.tell(holder, "a", "100")?;
    house.tell(holder, "leave", "100")?;
    house.wait(None)?.exits(exit::OK)?;
    house.take_back(&before)
}

/// A child that is forked inside of the old function is inside of it, and is old until it leaves.
#[test]
fn a_fork_inside() -> Result<()> {
    let mut house = House::new()?;
    let holder = house.start("sleep")?;
    let before = Snapshot::take(house.pid)?;
    house.begin()?;
    let child: u32 = house.program.ask(&format!("tell {holder} fork"))?.parse()?;
    house.program.expect("child a", "100")?;
    house.expect_state(child, "enabling", 1)?;

    house.tell(holder, "leave", "100")?;
    house.wait(Some(house.pid))?.exits(exit::OK)?;
    house.expect_state(child, "enabling", 1)?;
    house.program.expect("child a", "100")?;
    house.program.expect("child leave", "100")?;
    house.wait(None)?.exits(exit::OK)?;
    house.expect_state(child, "enabled", 0)?;
    house.program.expect("child a", "101")?;
    house.take_back(&before)
}

/// One command waits for parent and child.
#[test]
fn a_wait_for_parent_and_child() -> Result<()> {
    let mut house = House::new()?;
    let holder = house.start("sleep")?;
    house.begin()?;
    let child: u32 = house.program.ask(&format!("tell {holder} fork"))?.parse()?;
    let wait = ["wait", &house.name, "--timeout", "1"];
    house
        .engraft
        .run(wait)?
        .exits(exit::TARGET_BUSY)?
        .says(&["failed in 2 of 2 processes", &child.to_string()])?;
    house.tell(holder, "leave", "100")?;
    house.program.expect("child leave", "100")?;
    let pids = [house.pid, child].map(|pid| format!("process {pid} has switched"));
    house
        .wait(None)?
        .exits(exit::OK)?
        .says(&[&pids[0], &pids[1]])?;
    house.wait(None)?.exits(exit::NO_SUCH_PATCH)?;
    house.expect_state(house.pid, "enabled", 0)?;
    house.expect_state(child, "enabled", 0)?;
    house.program.finish()
}

/// A library enters in the transition's state: who has not switched gets its old code.
#[test]
fn a_library_comes() -> Result<()> {
    let mut house = House::new()?;
    let (holder, other) = (house.start("sleep")?, house.start("outside")?);
    let before = Snapshot::take(house.pid)?;
    house.begin()?;
    // The constructor runs in a thread that has switched.
    house.program.expect("open", "101")?;
    house.program.expect("b", "b=101")?;
    house.tell(other, "b", "101")?;
    house.tell(holder, "b", "100")?;
    house.tell(holder, "a", "100")?;
    let status = house.engraft.status(house.pid)?;
    ensure!(
        status["patches"][0]["objects"]
            .to_string()
            .contains("library.so"),
        "{status}"
    );

    // It may go again, and come back.
    house.program.expect("close", "closed")?;
    house.expect_state(house.pid, "enabling", 1)?;
    house.program.expect("open", "101")?;
    house.tell(holder, "b", "100")?;
    house.tell(holder, "leave", "100")?;
    house.wait(Some(house.pid))?.exits(exit::OK)?;
    house.tell(holder, "b", "101")?;
    house.program.expect("b", "b=101")?;
    house.program.expect("close", "closed")?;
    house.take_back(&before)
}

/// The constructor runs in a thread that has yet to switch, and so does the rest of what it calls.
#[test]
fn a_library_that_the_one_inside_opens() -> Result<()> {
    let mut house = House::new()?;
    let holder = house.start("sleep")?;
    let before = Snapshot::take(house.pid)?;
    house.begin()?;
    house.tell(holder, "open", "100")?;
    house.tell(holder, "b", "100")?;
    house.program.expect("b", "b=101")?;
    house.tell(holder, "leave", "100")?;
    house.wait(Some(house.pid))?.exits(exit::OK)?;
    house.tell(holder, "b", "101")?;
    house.program.expect("close", "closed")?;
    house.take_back(&before)
}

/// It was there before the transition, goes in the middle of it, and is not there at its end; or is
/// again.
#[test]
fn a_library_goes() -> Result<()> {
    for back in [false, true] {
        let mut house = House::new()?;
        let holder = house.start("sleep")?;
        let before = Snapshot::take(house.pid)?;
        house.program.expect("open", "100")?;
        house.begin()?;
        house.program.expect("b", "b=101")?;
        house.tell(holder, "b", "100")?;
        house.program.expect("close", "closed")?;
        if back {
            house.program.expect("open", "101")?;
        }
        house.tell(holder, "leave", "100")?;
        house.wait(Some(house.pid))?.exits(exit::OK)?;
        if back {
            house.program.expect("b", "b=101")?;
            house.program.expect("close", "closed")?;
        }
        house.program.expect("open", "101")?;
        house.take_back(&before)?;
    }
    Ok(())
}

/// Backwards it enters with the patch, for the one that is still in new code.
#[test]
fn a_library_comes_while_the_patch_goes() -> Result<()> {
    let mut house = House::new()?;
    let before = Snapshot::take(house.pid)?;
    house
        .engraft
        .apply(&house.patch, house.pid)?
        .exits(exit::OK)?;
    let holder = house.start("sleep")?;
    house
        .briefly(&["disable", &house.name])?
        .exits(exit::TARGET_BUSY)?;
    house.program.expect("open", "100")?;
    house.program.expect("b", "b=100")?;
    house.tell(holder, "b", "101")?;
    house.tell(holder, "leave", "101")?;
    house.wait(Some(house.pid))?.exits(exit::OK)?;
    house.tell(holder, "b", "100")?;
    house.program.expect("close", "closed")?;
    before.expect_same_text()?;
    house.program.finish()
}

/// Another patch waits for its turn, and so do orders for other patches; the first one is named.
#[test]
fn another_patch() -> Result<()> {
    let mut house = House::new()?;
    let second = house
        .victim
        .patch(&house.engraft, "second.patch", "second", &["lodgers"])?;
    house.engraft.apply(&second, house.pid)?.exits(exit::OK)?;
    house.program.expect("a", "a=102")?;
    let holder = house.start("sleep")?;
    house.begin()?;
    let third = house
        .victim
        .patch(&house.engraft, "second.patch", "third", &["lodgers"])?;
    let third = third.to_str().context("a path that is no text")?;
    let words: [&str; 2] = [&house.name, "lodger-1"];
    for refused in [&["apply", third][..], &["disable", "second"]] {
        house
            .briefly(refused)?
            .exits(exit::TARGET_BUSY)?
            .says(&words)?;
    }
    ensure!(house.engraft.patches(house.pid)? == ["second", &house.name]);
    house.program.expect("a", "a=101")?;
    house.tell(holder, "a", "102")?;
    // Only the one in transition can be forced or waited for.
    house
        .briefly(&["force", "second"])?
        .exits(exit::WRONG_STATE)?;
    house
        .briefly(&["wait", "second"])?
        .exits(exit::WRONG_STATE)?;
    house.tell(holder, "leave", "100")?;
    house
        .engraft
        .apply(Path::new(third), house.pid)?
        .exits(exit::OK)?;
    ensure!(house.engraft.patches(house.pid)? == ["second", &house.name, "third"]);
    house.program.expect("a", "a=102")?;
    house.program.finish()
}

/// What programs read: who holds it up, where, and why.
#[test]
fn the_status_for_programs() -> Result<()> {
    let mut house = House::new()?;
    let before = house.engraft.status(house.pid)?;
    ensure!(
        before["agent"].is_null() && before["transition"].is_null(),
        "{before}"
    );
    let (holder, busy) = (house.start("sleep")?, house.start("spin")?);
    house.begin()?;
    let status = house.engraft.status(house.pid)?;
    ensure!(status["pid"] == house.pid, "{status}");
    ensure!(status["patches"][0]["name"] == *house.name, "{status}");
    ensure!(status["patches"][0]["state"] == "enabling", "{status}");
    let transition = &status["transition"];
    ensure!(
        transition["waiting"] == 2 && transition["started"] == true,
        "{status}"
    );
    let threads = transition["threads"].as_array().context("no threads")?;
    ensure!(threads.len() == 2, "{status}");
    for thread in threads {
        let tid = thread["tid"].as_u64().context("no tid")?;
        let comm = std::fs::read_to_string(format!("/proc/{}/task/{tid}/comm", house.pid))?;
        ensure!(thread["name"] == comm.trim(), "{status}");
        ensure!(thread["function"] == "stay", "{status}");
        // Both wait in a function that stay() has called.
        ensure!(thread["reason"] == "sleeping", "{status}");
        let frame = thread["frame"].as_str().unwrap_or_default();
        ensure!(frame.contains("0x"), "{status}");
    }
    house.tell(busy, "leave", "100")?;
    house.tell(holder, "leave", "100")?;
    // Both are clear, but nobody has looked.
    house.expect_state(house.pid, "enabling", 2)?;
    let status = house.engraft.status(house.pid)?;
    ensure!(
        status["transition"]["threads"][0]["reason"].is_null(),
        "{status}"
    );
    house.wait(Some(house.pid))?.exits(exit::OK)?;
    let status = house.engraft.status(house.pid)?;
    ensure!(status["transition"].is_null(), "{status}");
    ensure!(status["patches"][0]["state"] == "enabled", "{status}");
    house.program.finish()
}
