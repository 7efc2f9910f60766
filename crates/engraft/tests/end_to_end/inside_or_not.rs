//! Who is inside of a function, and who only seems to be: a thread whose innermost frame is in the
//! vDSO is; one that has the function's address in its frame, or a value that looks like a return
//! into it, is not.

use anyhow::{Context, Result, ensure};
use engraft_testkit::{Snapshot, exit};

use crate::transition::House;

/// The kernel's own code has frames too, and a walk that cannot get past them must not end in
/// "clear".
#[test]
fn under_a_frame_of_the_vdso() -> Result<()> {
    const ROUNDS: usize = 20;
    let mut house = House::new()?;
    let holder = house.start("vdso")?;
    let before = Snapshot::take(house.pid)?;
    let mut sleeping = 0;
    for _ in 0..ROUNDS {
        house.begin()?;
        house.program.expect("a", "a=101")?;
        house.tell(holder, "a", "100")?;
        let status = house.engraft.status(house.pid)?;
        let thread = &status["transition"]["threads"][0];
        let reason = thread["reason"].as_str().context("it seems to be clear")?;
        // A thread at work may be anywhere, also between two instructions of a prologue.
        sleeping += usize::from(reason == "sleeping" && thread["function"] == "stay");
        house
            .engraft
            .disable(&house.name, house.pid)?
            .exits(exit::OK)?;
        house.program.expect("a", "a=100")?;
    }
    ensure!(sleeping > ROUNDS / 2, "found in {sleeping} rounds only");
    house.begin()?;
    house.tell(holder, "leave", "100")?;
    house.wait(Some(house.pid))?.exits(exit::OK)?;
    house.tell(holder, "a", "101")?;
    house.take_back(&before)
}

#[test]
fn with_the_address_in_a_live_frame() -> Result<()> {
    not_inside("pointer")
}

#[test]
fn with_a_left_over_in_a_live_frame() -> Result<()> {
    not_inside("stale")
}

/// A thread that is not inside holds nobody up, in both directions.
fn not_inside(kind: &str) -> Result<()> {
    let mut house = House::new()?;
    let thread = house.start(kind)?;
    let before = Snapshot::take(house.pid)?;
    for _ in 0..3 {
        house
            .engraft
            .apply(&house.patch, house.pid)?
            .exits(exit::OK)?;
        house.expect_state(house.pid, "enabled", 0)?;
        house.tell(thread, "a", "101")?;
        house
            .engraft
            .disable(&house.name, house.pid)?
            .exits(exit::OK)?;
        house.tell(thread, "a", "100")?;
    }
    house.take_back_disabled(&before)
}
