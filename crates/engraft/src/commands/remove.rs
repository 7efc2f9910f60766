//! What can be done with a disabled patch, and with an agent that has nothing to do any more: enable it
//! again, or take its memory out of the process.
//!
//! Memory is taken away only when no thread refers to it, by what its stack and registers hold: any word
//! that could be an address of its data counts, and any that somebody may return to in its code. What the
//! program keeps elsewhere, on its heap say, is not looked at; a patch whose functions may be referred to
//! from there says so, and stays.

use std::ops::Range;
use std::time::Duration;

use engraft_abi::{Command, Outcome};
use engraft_process::{Process, StackScan, StackWalk, StoppedProcess, TargetAddress, Verdict};

use crate::agent::inject;
use crate::agent::remains;
use crate::agent::running::Plan;
use crate::agent::snapshot::{Snapshot, status};
use crate::commands::apply::{Applied, resume_enabling};
use crate::commands::objects::Reach;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::error::in_the_way::Reference;
use crate::session::Session;
use crate::transition::change::{Change, take_over};
use crate::transition::stack_check::{addresses, check, walk_context};
use crate::transition::suspended::{Suspended, first_suspended};

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
    take_over(&session, name)?;
    if let Some(stopped_for) = resume_enabling(&session, name)? {
        return Ok(Applied::Now {
            reach: Reach::of_enabled(&session, name)?,
            stopped_for,
        });
    }
    if session.enabled_patch(name)?.is_some() {
        return Ok(Applied::Already);
    }
    let number = session.disabled_patch(name)?;
    let enabled = session
        .attach()
        .and_then(|()| enable_again(&session, number));
    match enabled {
        Ok(Some(stopped_for)) => Ok(Applied::Now {
            reach: Reach::of_enabled(&session, name)?,
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
    take_over(&session, name)?;
    match (session.disabled_patch(name), session.enabled_patch(name)?) {
        (Ok(number), _) => take_out(&session, number, name, &session.deadline),
        (Err(_), Some(_)) => Err(Error::StillEnabled {
            pid,
            name: name.to_owned(),
        }),
        (Err(none), None) => Err(none),
    }
}

/// Takes the memory of a disabled patch out, once no thread refers to it.
pub(crate) fn take_out(
    session: &Session<'_>,
    number: u64,
    name: &str,
    deadline: &Deadline,
) -> Result<Removed, Error> {
    let (process, pid) = (session.process, session.pid());
    let arguments = [number, 0];
    let mut context = None;
    let mut looks = 0;
    session.contexts.prepare(process)?;
    loop {
        looks += 1;
        let maps = process.maps()?;
        let mut stopped = session.stop()?;
        let planned = session.command_stopped(&mut stopped, Command::PlanRemoval, arguments)?;
        if planned.is_busy() {
            stopped.detach()?;
            session.wait_for_loader()?;
            continue;
        }
        planned.done(pid)?;
        let plan = session.agent.plan()?;
        let image = ImageScan {
            data: StackScan::new(process, &maps, &addresses(&plan.ranges)),
            code: StackScan::new(process, &maps, &addresses(&plan.sites)),
            walk: context
                .as_ref()
                .map(|context| StackWalk::new(process, &maps, context)),
            ranges: addresses(&[plan.ranges.as_slice(), &plan.sites].concat()),
        };
        let reference = image.first_reference(&mut stopped)?;
        let Some((tid, reference)) = reference else {
            let suspended = suspended_in(session, &stopped, &plan)?;
            if let Some(suspended) = suspended {
                stopped.detach()?;
                wait_for_context(session, name, suspended)?;
                continue;
            }
            let removed = session.command_stopped(&mut stopped, Command::Remove, arguments)?;
            stopped.detach()?;
            let stays = removed.done(pid)?.value;
            return Ok(Removed { stays });
        };
        stopped.detach()?;
        deadline.wait().map_err(|timeout| Error::ThreadRefers {
            pid,
            tid,
            thread_name: process.task(tid).name().unwrap_or_default(),
            name: name.to_owned(),
            reference,
            looks,
            timeout,
        })?;
        let snapshot = Snapshot::read(&session.agent)?;
        context = Some(walk_context(process, snapshot.images(None))?);
    }
}

/// A suspended context that may go on in code that is to be taken away, or use data of it.
fn suspended_in(
    session: &Session<'_>,
    stopped: &StoppedProcess,
    plan: &Plan,
) -> Result<Option<Suspended>, Error> {
    let is_empty = plan.sites.is_empty() && plan.ranges.is_empty();
    if is_empty || !session.contexts.are_looked_for() {
        return Ok(None);
    }
    let threads: Vec<_> = stopped.threads().collect();
    first_suspended(session, &threads, &plan.sites, &plan.ranges)
}

/// Lets the program run until memory may be looked through again.
fn wait_for_context(session: &Session<'_>, name: &str, suspended: Suspended) -> Result<(), Error> {
    loop {
        session
            .deadline
            .wait()
            .map_err(|timeout| Error::ContextRefers {
                pid: session.pid(),
                name: name.to_owned(),
                suspended: suspended.clone().into(),
                timeout,
            })?;
        if session.contexts.may_look() {
            return Ok(());
        }
    }
}

/// Takes an agent that knows no patch out of a process, and whatever an injection has left there that was not completed;
/// false if there is no agent. Waits up to `timeout` until no thread is inside it.
pub fn remove_agent(process: &Process, timeout: Duration) -> Result<bool, Error> {
    let removed = take_agent_out(process, timeout)?;
    remains::expect_none(process)?;
    Ok(removed)
}

fn take_agent_out(process: &Process, timeout: Duration) -> Result<bool, Error> {
    let pid = process.pid();
    let Some(session) = Session::find(process, Deadline::of(process, timeout))? else {
        return Ok(false);
    };
    take_over(&session, "")?;
    let patches = status(process)?.patches;
    if !patches.is_empty() {
        let names = patches.into_iter().map(|patch| patch.name).collect();
        return Err(Error::PatchesLeft { pid, names });
    }
    let mut context = None;
    let mut looks = 0;
    loop {
        looks += 1;
        let mut stopped = session.stop()?;
        let removed = inject::remove(&mut stopped, &session.agent, context.as_ref());
        stopped.detach()?;
        match session.watch(removed) {
            Ok(()) => {
                session.forget_agent();
                return Ok(true);
            }
            Err(Error::ThreadInside { .. }) if session.deadline.wait().is_ok() => {
                context = Some(walk_context(process, std::iter::empty())?);
            }
            Err(error) if error.is_busy() => session.wait_for_loader()?,
            Err(error) => return Err(error.within(timeout, looks)),
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
    Session::find(process, Deadline::of(process, timeout))?.ok_or_else(none)
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
    Change::Enable(number).make(session).map(Some)
}

/// What is looked for before the images of a patch are taken away.
struct ImageScan<'s> {
    /// Constants and variables: any word that could be an address counts.
    data: StackScan<'s>,
    /// Code: an address in the middle of it matters if somebody returns there. (One of a function that only the
    /// image has may be kept anywhere; such images are not taken away.)
    code: StackScan<'s>,
    walk: Option<StackWalk<'s>>,
    ranges: Vec<Range<TargetAddress>>,
}

impl ImageScan<'_> {
    /// A thread whose stack or registers hold an address inside, and where.
    fn first_reference(
        &self,
        stopped: &mut StoppedProcess,
    ) -> Result<Option<(i32, Reference)>, Error> {
        if self.ranges.is_empty() {
            return Ok(None);
        }
        let threads: Vec<_> = stopped.threads().collect();
        for thread in threads.iter().filter(|thread| !thread.is_kernel_worker) {
            let tid = thread.tid;
            let code = check(&self.code, self.walk.as_ref(), thread);
            let on_stack = reference(self.data.check(thread)).or_else(|| reference(code));
            let registers = thread.registers.general();
            let in_register = || registers.into_iter().find_map(|value| self.inside(value));
            if let Some(reference) = on_stack.or_else(in_register) {
                return Ok(Some((tid, reference)));
            }
            // A vector register may hold an address that is being copied.
            let state = stopped.thread(tid).map(|thread| thread.extended_state());
            let state = state.transpose()?.unwrap_or_default();
            let words = state.chunks_exact(8).filter_map(<[u8]>::first_chunk::<8>);
            let mut values = words.map(|word| u64::from_ne_bytes(*word));
            if let Some(reference) = values.find_map(|value| self.inside(value)) {
                return Ok(Some((tid, reference)));
            }
        }
        Ok(None)
    }

    fn inside(&self, value: u64) -> Option<Reference> {
        let value = TargetAddress::new(value);
        let mut ranges = self.ranges.iter();
        let inside = ranges.any(|range| range.contains(&value));
        inside.then_some(Reference::Register { value })
    }
}

fn reference(verdict: Verdict) -> Option<Reference> {
    match verdict {
        Verdict::Clear => None,
        Verdict::Running {
            instruction_pointer,
            ..
        } => Some(Reference::Register {
            value: instruction_pointer,
        }),
        Verdict::Sleeping { at, value, .. } => Some(Reference::Stack { at, value }),
        Verdict::Unreliable(reason) => {
            let reason = reason.to_string();
            Some(Reference::Unknown { reason })
        }
    }
}
