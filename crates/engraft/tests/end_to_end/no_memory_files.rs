//! A program that can make no memory file, as a server at its limit of open files: the agent's
//! memory may be without a name then, and is found by what is in it, by every command, in children
//! too.

use std::fs;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use engraft_testkit::{Snapshot, exit};

use crate::operator::set_limits;
use crate::transition::House;

/// A process that may open no more files.
fn house() -> Result<House> {
    let house = House::new()?;
    set_limits(house.pid, &["--nofile=3"])?;
    Ok(house)
}

/// Where the agent's constants begin, which hold their own address; and where the mapping below
/// begins.
fn constants(pid: u32) -> Result<(u64, u64)> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let memory = fs::File::open(format!("/proc/{pid}/mem"))?;
    let mut below = 0;
    for line in maps.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let (start, _) = words[0].split_once('-').context("no range")?;
        let start = u64::from_str_radix(start, 16)?;
        let mut address = [0; 8];
        // What the kernel has mapped for itself cannot be read.
        let read = memory.read_exact_at(&mut address, start + 16);
        if words[1] == "r--p" && read.is_ok() && u64::from_le_bytes(address) == start {
            return Ok((start, below));
        }
        below = start;
    }
    anyhow::bail!("not found in {maps}")
}

fn remove(house: &House, what: &str) -> Result<()> {
    let pid = house.pid.to_string();
    house
        .engraft
        .run(["remove", what, "--pid", &pid])?
        .exits(exit::OK)?;
    Ok(())
}

#[test]
fn every_command_finds_the_agent() -> Result<()> {
    let mut house = house()?;
    let before = Snapshot::take(house.pid)?;
    for _ in 0..2 {
        house
            .engraft
            .apply(&house.patch, house.pid)?
            .exits(exit::OK)?;
        house.program.expect("a", "a=101")?;
        let maps = fs::read_to_string(format!("/proc/{}/maps", house.pid))?;
        ensure!(!maps.contains("memfd"), "it made a memory file: {maps}");
        let status = house.engraft.status(house.pid)?;
        let memory = status["agent"]["memory_bytes"].as_u64().unwrap_or(0);
        ensure!((16 << 10..1 << 20).contains(&memory), "{status}");
        // Of all processes that have an agent: there may be others, with which there may be
        // something wrong.
        let listed = house.engraft.run(["status"])?;
        listed.says(&[&house.pid.to_string(), &house.name])?;

        house
            .engraft
            .run(["disable", &house.name])?
            .exits(exit::OK)?;
        house.program.expect("a", "a=100")?;
        before.expect_same_text()?;
        house
            .engraft
            .run(["enable", &house.name])?
            .exits(exit::OK)?;
        house.program.expect("a", "a=101")?;
        house
            .engraft
            .run(["disable", &house.name])?
            .exits(exit::OK)?;
        remove(&house, &house.name)?;
        remove(&house, "--agent")?;
        before.expect_untouched()?;
    }
    house.program.finish()
}

#[test]
fn a_child_has_it_too() -> Result<()> {
    let mut house = house()?;
    house
        .engraft
        .apply(&house.patch, house.pid)?
        .exits(exit::OK)?;
    let child: u32 = house.program.ask("fork")?.parse()?;
    house.expect_state(child, "enabled", 0)?;
    let both = [house.pid, child].map(|pid| pid.to_string());
    house
        .engraft
        .run(["disable", &house.name])?
        .exits(exit::OK)?
        .says(&[&both[0], &both[1]])?;
    house.program.expect("child a", "100")?;
    house.expect_state(child, "disabled", 0)?;
    house.program.finish()
}

/// The kernel makes one mapping of the agent's memory and the program's below it.
#[test]
fn the_programs_memory_joins_it() -> Result<()> {
    let mut house = house()?;
    house
        .engraft
        .apply(&house.patch, house.pid)?
        .exits(exit::OK)?;
    let (_, below) = constants(house.pid)?;
    house
        .program
        .expect(&format!("map {:#x}", below - 4096), "mapped")?;
    house.expect_state(house.pid, "enabled", 0)?;
    house
        .engraft
        .disable(&house.name, house.pid)?
        .exits(exit::OK)?;
    house.program.expect("a", "a=100")?;
    remove(&house, &house.name)?;
    remove(&house, "--agent")?;
    let place = format!("{:#x}", below - 4096);
    house.program.expect(&format!("look {place}"), &place)?;
    house.program.finish()
}

/// A copy of what the agent is known by is no agent, and says nothing about anybody's memory.
#[test]
fn a_copy_is_no_agent() -> Result<()> {
    let mut house = house()?;
    house
        .engraft
        .apply(&house.patch, house.pid)?
        .exits(exit::OK)?;
    let (constants, below) = constants(house.pid)?;
    house
        .program
        .expect(&format!("copy {constants:#x}"), "copied")?;
    house
        .engraft
        .disable(&house.name, house.pid)?
        .exits(exit::OK)?;
    remove(&house, &house.name)?;
    remove(&house, "--agent")?;
    let status = house.engraft.status(house.pid)?;
    ensure!(status["agent"].is_null(), "{status}");
    // Where the agent was.
    let place = format!("{below:#x}");
    house.program.expect(&format!("map {place}"), "mapped")?;
    house
        .engraft
        .apply(&house.patch, house.pid)?
        .exits(exit::OK)?;
    house.program.expect("a", "a=101")?;
    house.program.expect(&format!("look {place}"), &place)?;
    house.program.finish()
}
