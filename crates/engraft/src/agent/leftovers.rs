//! What an injection has left in a process when its controller was killed or it failed: memory, and
//! a descriptor of a memory file.

use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use engraft_process::{Process, TargetAddress};

use crate::agent::calls::Calls;
use crate::agent::header::{agent_ranges, reservations};
use crate::agent::mapping::unmap;
use crate::backoff::Backoff;
use crate::error::Error;

/// The agent's memory file, as /proc names what a descriptor refers to.
const FILE: &[u8] = b"/memfd:engraft-agent (deleted)";

/// How many ranges of memory are unmapped even if there is no time left.
const AT_LEAST: usize = 16;

/// Removes what injections have left in a process without an agent. Their controllers have died:
/// only one controller works on a process at a time.
pub(crate) fn remove(process: &Process, backoff: &Backoff) -> Result<(), Error> {
    let mut calls = Calls::borrowing(process, backoff);
    for (index, range) in memory(process)?.into_iter().enumerate() {
        // Only a process that imitates an agent has more than these.
        if index >= AT_LEAST && backoff.has_passed() {
            let (pid, timeout) = (process.pid(), backoff.timeout());
            return Err(Error::TooManyLeftovers { pid, timeout });
        }
        unmap(&mut calls, range.start, range.end - range.start)?;
    }
    close_files(&mut calls)
}

/// Checks that nothing of an agent is left.
pub(crate) fn expect_none(process: &Process) -> Result<(), Error> {
    let pid = process.pid();
    if let Some(range) = memory(process)?.into_iter().next() {
        return Err(Error::MemoryLeft { pid, range });
    }
    match open_files(process)?.first() {
        Some(&descriptor) => Err(Error::FileLeft { pid, descriptor }),
        None => Ok(()),
    }
}

/// Whether there is anything to remove.
pub(crate) fn exist(process: &Process) -> Result<bool, Error> {
    Ok(!memory(process)?.is_empty() || !open_files(process)?.is_empty())
}

/// The ranges of memory that belong to an agent or were mapped for one. Adjacent ranges are joined.
fn memory(process: &Process) -> Result<Vec<Range<TargetAddress>>, Error> {
    let mut ranges = agent_ranges(process)?;
    ranges.extend(reservations(process)?);
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<TargetAddress>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    Ok(joined)
}

/// The descriptors of the agent's memory files.
fn open_files(process: &Process) -> Result<Vec<u64>, Error> {
    let task = process.living_task();
    let mut descriptors = task.descriptors().map_err(Error::reading(process))?;
    // A descriptor that cannot be read has just been closed. There may be a million, so the time is
    // checked.
    descriptors.retain(|number| {
        let file = match process.memory().check_time() {
            Ok(()) => task.descriptor(*number).ok().flatten(),
            Err(_) => None,
        };
        file.is_some_and(|file| is_agent_file(&file))
    });
    process.memory().check_time()?;
    Ok(descriptors)
}

fn is_agent_file(file: &Path) -> bool {
    file.as_os_str().as_bytes() == FILE
}

/// Closes all open memory files of an agent.
pub(crate) fn close_files(calls: &mut Calls<'_, '_>) -> Result<(), Error> {
    for descriptor in open_files(calls.process())? {
        close_file(calls, descriptor)?;
    }
    Ok(())
}

/// Closes a memory file of an agent, unless the descriptor has become another file: the program may
/// have closed it and opened something else.
pub(crate) fn close_file(calls: &mut Calls<'_, '_>, descriptor: u64) -> Result<(), Error> {
    let process = calls.process().clone();
    calls.in_thread(|thread| {
        let task = process.task(thread.state().tid);
        let file = task.descriptor(descriptor);
        let file = file.map_err(Error::reading(&process))?;
        if file.is_some_and(|file| is_agent_file(&file)) {
            thread.system_call(libc::SYS_close, [descriptor, 0, 0, 0, 0, 0])?;
        }
        Ok(())
    })
}
