//! Threads that clone() made and the C library knows nothing of, without a thread pointer, with
//! another thread's, or with one of their own: they are clear when they are elsewhere, are waited
//! for when they are inside, and those that cannot be told apart have one version together at any
//! time. A thread in a coroutine is never clear.

use anyhow::{Context, Result, ensure};
use engraft_testkit::{Snapshot, exit};

use crate::transition::House;

const KINDS: [&str; 3] = ["bare", "shared", "own"];

#[test]
fn plain_threads_elsewhere() -> Result<()> {
    for kind in KINDS {
        let mut house = House::new()?;
        let raw = [house.start(kind)?, house.start(kind)?];
        for one in raw {
            house.tell(one, "leave", "100")?;
        }
        let before = Snapshot::take(house.pid)?;
        house
            .engraft
            .apply(&house.patch, house.pid)?
            .exits(exit::OK)?;
        for one in raw {
            house.tell(one, "a", "101")?;
            house.tell(one, "enter", "1")?;
            house.tell(one, "leave", "101")?;
        }
        house.take_back(&before)?;
    }
    Ok(())
}

/// They are all old until the last one has left.
#[test]
fn plain_threads_inside() -> Result<()> {
    for kind in KINDS {
        let mut house = House::new()?;
        let (one, two) = (house.start(kind)?, house.start(kind)?);
        let other = house.start("outside")?;
        let before = Snapshot::take(house.pid)?;
        house.begin()?;
        let together = kind != "own";
        house.expect_state(house.pid, "enabling", if together { 1 } else { 2 })?;
        let status = house.engraft.status(house.pid)?;
        let threads = status["transition"]["threads"].as_array();
        let threads = threads.context("no threads")?;
        let sleeping = |thread: &&serde_json::Value| {
            thread["reason"] == "sleeping" && thread["function"] == "stay"
        };
        ensure!(threads.iter().filter(sleeping).count() == 2, "{status}");
        // The threads of the second kind have the main thread's thread pointer.
        let main = if kind == "shared" { "a=100" } else { "a=101" };
        house.program.expect("a", main)?;
        house.tell(one, "a", "100")?;
        house.tell(other, "a", "101")?;

        house.tell(one, "leave", "100")?;
        house
            .briefly(&["wait", &house.name])?
            .exits(exit::TARGET_BUSY)?;
        house.tell(one, "a", if together { "100" } else { "101" })?;
        house.tell(two, "a", "100")?;
        house.program.expect("a", main)?;

        house.tell(two, "leave", "100")?;
        house.wait(Some(house.pid))?.exits(exit::OK)?;
        house.tell(one, "a", "101")?;
        house.tell(two, "a", "101")?;
        house.take_back(&before)?;
    }
    Ok(())
}

/// A command waits for a thread inside, which makes another one with its thread pointer there, and
/// leaves.
#[test]
fn a_plain_thread_that_is_born_inside() -> Result<()> {
    let mut house = House::new()?;
    let parent = house.start("sleep")?;
    waits_for(&mut house, |house| {
        let born = house.program.ask(&format!("tell {parent} clone"))?;
        house.tell(parent, "leave", "100")?;
        Ok([born.parse()?, parent])
    })
}

/// A command waits for a thread inside. The one that has the same thread pointer was clear when
/// that began, and goes inside before the first one leaves.
#[test]
fn a_thread_that_shares_its_thread_pointer_goes_inside() -> Result<()> {
    let mut house = House::new()?;
    let parent = house.start("outside")?;
    let born = house.program.ask(&format!("tell {parent} clone"))?;
    let born = born.parse()?;
    waits_for(&mut house, |house| {
        house.tell(parent, "enter", "1")?;
        house.tell(born, "leave", "100")?;
        Ok([parent, born])
    })
}

/// While a command waits, `change` happens, which returns who is inside then and who is outside:
/// the command has to wait on, and both are old.
fn waits_for(house: &mut House, change: impl FnOnce(&mut House) -> Result<[u32; 2]>) -> Result<()> {
    let before = Snapshot::take(house.pid)?;
    let mut apply = house.engraft.command(["apply"]);
    let pid = house.pid.to_string();
    apply
        .arg(&house.patch)
        .args(["--pid", &pid, "--timeout", "3"]);
    let mut apply = apply.spawn()?;
    while house.program.ask("a")? != "a=101" {
        ensure!(apply.try_wait()?.is_none(), "it has ended");
    }
    let [inside, outside] = change(house)?;
    let code = apply.wait()?.code();
    house.tell(inside, "a", "100")?;
    house.tell(outside, "a", "100")?;
    ensure!(code == Some(exit::TARGET_BUSY), "{code:?}");
    house.tell(inside, "leave", "100")?;
    house.wait(Some(house.pid))?.exits(exit::OK)?;
    house.tell(inside, "a", "101")?;
    house.tell(outside, "a", "101")?;
    house
        .engraft
        .disable(&house.name, house.pid)?
        .exits(exit::OK)?;
    before.expect_same_text()
}

/// The context that it came from is on no stack, and may be anywhere.
#[test]
fn a_thread_in_a_coroutine() -> Result<()> {
    let mut house = House::new()?;
    let thread = house.start("coroutine")?;
    house.tell(thread, "leave", "100")?;
    let before = Snapshot::take(house.pid)?;
    house.begin()?.says(&["1 thread has yet to switch"])?;
    let status = house.engraft.status(house.pid)?;
    let reason = &status["transition"]["threads"][0]["reason"];
    ensure!(reason == "unreliable", "{status}");
    let at_next_call = &status["transition"]["threads"][0]["at_next_call"];
    ensure!(at_next_call == false, "{status}");
    let words = house
        .engraft
        .run(["status", "--pid", &house.pid.to_string()])?;
    words.says(&["it has to be seen outside"])?;
    house.tell(thread, "a", "100")?;
    house.program.expect("a", "a=101")?;
    house.take_back(&before)
}
