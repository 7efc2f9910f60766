//! What a controller that died had been asked for is nothing that the next one does: by then
//! threads may be anywhere.

use std::fs::{File, OpenOptions};
use std::mem::offset_of;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use engraft_abi::{Control, WriteRequest, request_state};
use engraft_testkit::exit;
use zerocopy::{FromZeros, IntoBytes};

use crate::{engraft, victim};

#[test]
fn a_request_that_was_left_is_not_served() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("workers")?);
    let patch = victim.patch(&engraft, "fix.patch", "cheap-apples", &["workers"])?;
    let mut program = victim.start("workers", &["0"])?;
    let pid = program.pid();
    engraft.apply(&patch, pid)?.exits(exit::OK)?;
    engraft.disable("cheap-apples", pid)?.exits(exit::OK)?;

    let control = control_block(pid)?;
    // At the end of its page, where nothing is in a process of few threads.
    let place = control + 4096 - 8;
    let request = WriteRequest {
        address: place,
        length: 8,
        bytes: *b"written!        ",
        state: request_state::ASKED,
        ..WriteRequest::new_zeroed()
    };
    let memory = memory(pid)?;
    let read = |place| -> Result<[u8; 8]> {
        let mut bytes = [0; 8];
        memory.read_exact_at(&mut bytes, place)?;
        Ok(bytes)
    };
    ensure!(read(place)? == [0; 8], "{:?}", read(place)?);
    memory.write_all_at(
        request.as_bytes(),
        control + offset_of!(Control, request) as u64,
    )?;
    // Its first call is one that may write.
    let arguments = ["remove", "cheap-apples", "--pid", &pid.to_string()];
    engraft.run(arguments)?.exits(exit::OK)?;
    ensure!(read(place)? == [0; 8], "{:?}", read(place)?);
    program.expect("price 7", "7 apples cost 21")?;
    program.finish()
}

/// Where the agent's control block is: at the start of its first mapping.
fn control_block(pid: u32) -> Result<u64> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let first = maps.lines().find(|line| line.contains("engraft-agent"));
    let (start, _) = first
        .context("no agent")?
        .split_once('-')
        .context("no range")?;
    Ok(u64::from_str_radix(start, 16)?)
}

fn memory(pid: u32) -> Result<File> {
    let path = format!("/proc/{pid}/mem");
    Ok(OpenOptions::new().read(true).write(true).open(path)?)
}
