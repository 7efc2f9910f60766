//! What can be done with a disabled patch, and with an agent that has nothing to do any more: enable it
//! again, or take its memory out of the process.
//!
//! Memory is taken away only when no thread refers to it, by what its stack and registers hold: any word
//! that could be an address inside counts, also one of data. What the program keeps elsewhere, on its heap
//! say, is not looked at; a patch whose functions may be referred to from there says so, and stays.

use std::ops::Range;
use std::time::Duration;

use engraft_abi::{CodeRange, Command, Outcome};
use engraft_process::{Process, StackScan, StoppedProcess, TargetAddress, Verdict};

use crate::apply::{Applied, switch_to};
use crate::change::{addresses, first_not_clear};
use crate::deadline::Deadline;
use crate::error::{Error, Reference};
use crate::inject;
use crate::objects::Waiting;
use crate::session::Session;
use crate::status::status;

/// What removing a patch came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// Size in bytes of what had to stay, because the program may hold addresses of functions in it.
    pub stays: u64,
}

/// Enables a disabled patch again, as the newest one. Waits up to `timeout` for the process's threads to be
/// clear of the old code.
pub fn enable(process: &Process, name: &str, timeout: Duration) -> Result<Applied, Error> {
    let session = session(process, name, timeout)?;
    if session.find_patch(Command::Find, name)?.outcome == Outcome::Done {
        return Ok(Applied::Already);
    }
    let number = session
        .find_patch(Command::FindDisabled, name)?
        .done(process.pid())?
        .value;
    let enabled = session
        .attach()
        .and_then(|()| enable_again(&session, number));
    match enabled {
        Ok(Some(stopped_for)) => Ok(Applied::Now {
            waiting: waiting(process, name)?,
            stopped_for,
        }),
        Ok(None) => Ok(Applied::Already),
        Err(error) => {
            session.take_away();
            Err(error)
        }
    }
}

/// Takes the memory of a disabled patch out of a process. Waits up to `timeout` until no thread refers to it.
pub fn remove(process: &Process, name: &str, timeout: Duration) -> Result<Removed, Error> {
    let pid = process.pid();
    let session = session(process, name, timeout)?;
    let found = session.find_patch(Command::FindDisabled, name)?;
    if found.outcome == Outcome::AlreadyThere {
        let name = name.to_owned();
        return Err(Error::StillEnabled { pid, name });
    }
    let arguments = [found.done(pid)?.value, 0];
    loop {
        let maps = process.maps()?;
        let mut stopped = session.stop()?;
        let planned = session.command_stopped(&mut stopped, Command::PlanRemoval, arguments)?;
        if planned.is_busy() {
            stopped.detach()?;
            session.wait_for_loader()?;
            continue;
        }
        planned.done(pid)?;
        let ranges = session.agent.plan()?.ranges;
        let ranges = addresses(&ranges);
        let scan = StackScan::new(process, &maps, &ranges);
        let reference = first_reference(&mut stopped, &scan, &ranges)?;
        let Some((tid, reference)) = reference else {
            let removed = session.command_stopped(&mut stopped, Command::Remove, arguments)?;
            stopped.detach()?;
            let stays = removed.done(pid)?.value;
            return Ok(Removed { stays });
        };
        stopped.detach()?;
        session
            .deadline
            .wait()
            .map_err(|timeout| Error::ThreadRefers {
                pid,
                tid,
                thread_name: process.task(tid).name().unwrap_or_default(),
                name: name.to_owned(),
                reference,
                timeout,
            })?;
    }
}

/// Takes an agent that knows no patch out of a process; false if there is none. Waits up to `timeout` until
/// no thread is inside it.
pub fn remove_agent(process: &Process, timeout: Duration) -> Result<bool, Error> {
    let pid = process.pid();
    let Some(session) = Session::find(process, Deadline::after(timeout))? else {
        return Ok(false);
    };
    let patches = status(process)?.patches;
    if !patches.is_empty() {
        let names = patches.into_iter().map(|patch| patch.name).collect();
        return Err(Error::PatchesLeft { pid, names });
    }
    let mapping = session.agent.mapping()?;
    let mut name = [0; 64];
    name.iter_mut()
        .zip(engraft_abi::AGENT_MAPPING_NAME.bytes())
        .for_each(|(to, from)| *to = from);
    let range = CodeRange {
        start: mapping.start.get(),
        end: mapping.end.get(),
        name,
    };
    loop {
        let mut stopped = session.stop()?;
        let removed = inject::remove(&mut stopped, &session.agent);
        let inside = match &removed {
            Ok(false) => {
                let maps = process.maps()?;
                first_not_clear(&stopped, &maps, None, &[range], timeout)
            }
            _ => None,
        };
        stopped.detach()?;
        match removed {
            Ok(true) => return Ok(true),
            Ok(false) => session
                .deadline
                .wait()
                .map_err(|_| inside.unwrap_or_else(|| session.loader_busy()))?,
            Err(Error::Agent {
                outcome: Outcome::Busy | Outcome::LoaderBusy,
                ..
            }) => session.wait_for_loader()?,
            Err(error) => return Err(error),
        }
    }
}

/// With the agent in the process; without one, there is no such patch.
fn session<'p>(process: &'p Process, name: &str, timeout: Duration) -> Result<Session<'p>, Error> {
    let none = || Error::Agent {
        pid: process.pid(),
        outcome: Outcome::NoSuchPatch,
        text: format!("there is no patch '{name}'"),
    };
    Session::find(process, Deadline::after(timeout))?.ok_or_else(none)
}

/// Has the agent prepare a patch that it kept, and switches to it; `None` if it is enabled already.
fn enable_again(session: &Session<'_>, number: u64) -> Result<Option<Duration>, Error> {
    let arguments = [number, 0];
    let mut answer = session.command(Command::PrepareAgain, arguments)?;
    if !matches!(answer.outcome, Outcome::Done | Outcome::AlreadyThere) {
        answer = session.command_settled(Command::PrepareAgain, arguments)?;
    }
    if answer.outcome == Outcome::AlreadyThere {
        return Ok(None);
    }
    answer.done(session.pid())?;
    switch_to(session, number).map(Some)
}

/// The objects of an enabled patch that are not loaded, as the agent sees it.
fn waiting(process: &Process, name: &str) -> Result<Vec<Waiting>, Error> {
    let patches = status(process)?.patches;
    let patch = patches.into_iter().find(|patch| patch.name == name);
    let objects = patch.map(|patch| patch.objects).unwrap_or_default();
    let absent = objects.into_iter().filter(|it| it.modules.is_empty());
    Ok(absent
        .map(|object| Waiting {
            file_name: object.file_name,
            build_id: object.build_id,
        })
        .collect())
}

/// A thread whose stack or registers hold an address inside one of the ranges, and where.
fn first_reference(
    stopped: &mut StoppedProcess,
    scan: &StackScan<'_>,
    ranges: &[Range<TargetAddress>],
) -> Result<Option<(i32, Reference)>, Error> {
    if ranges.is_empty() {
        return Ok(None);
    }
    let inside = |value: u64| {
        let value = TargetAddress::new(value);
        ranges
            .iter()
            .any(|range| range.contains(&value))
            .then_some(value)
    };
    let threads: Vec<_> = stopped.threads().collect();
    for thread in threads.iter().filter(|thread| !thread.is_kernel_worker) {
        let tid = thread.tid;
        let reference = match scan.check(thread) {
            Verdict::Clear => thread
                .registers
                .general()
                .into_iter()
                .find_map(inside)
                .map(|value| Reference::Register { value }),
            Verdict::Running {
                instruction_pointer,
                ..
            } => Some(Reference::Register {
                value: instruction_pointer,
            }),
            Verdict::Sleeping { at, value, .. } => Some(Reference::Stack { at, value }),
            Verdict::Unreliable(reason) => {
                tracing::info!(tid, %reason, "stack not understood");
                Some(Reference::Unknown)
            }
        };
        if let Some(reference) = reference {
            return Ok(Some((tid, reference)));
        }
        // A vector register may hold an address that is being copied.
        let state = stopped.thread(tid).map(|thread| thread.extended_state());
        let state = state.transpose()?.unwrap_or_default();
        let words = state.chunks_exact(8).filter_map(<[u8]>::first_chunk::<8>);
        let mut values = words.map(|word| u64::from_ne_bytes(*word));
        if let Some(value) = values.find_map(inside) {
            return Ok(Some((tid, Reference::Register { value })));
        }
    }
    Ok(None)
}
