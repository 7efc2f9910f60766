//! Beginning a change in one stop: every thread that is clear switches at once.

use std::time::{Duration, Instant};

use engraft_process::ThreadState;

use super::change::Change;
use super::door::records;
use super::redirect::redirect;
use super::stack_check::{BlockedThread, CheckPlan};
use super::stop_check::StopCheck;
use super::thread_list::ThreadList;
use crate::agent::calls::STOP_TIMEOUT;
use crate::error::Error;
use crate::session::Session;

/// A change that has begun.
pub(super) struct Begun {
    /// How many threads have yet to switch.
    pub(super) waiting: u64,
    /// What the stop has shown.
    pub(super) check: StopCheck,
    /// How long the threads were stopped.
    pub(super) stopped_for: Duration,
}

/// How one attempt to begin ended.
enum Attempt {
    Begun(Begun),
    /// A library is coming or going.
    LoaderBusy,
    /// A thread is about to execute the middle of what has to be overwritten.
    InSite(BlockedThread),
}

/// Begins the change, and tries again until the deadline if a library or a thread is in the way.
pub(super) fn begin(session: &Session<'_>, change: Change) -> Result<Begun, Error> {
    ThreadList::with(session, |list| {
        let mut looks = 0;
        loop {
            looks += 1;
            // Everything that does not need stopped threads is done before the stop. A stack that
            // is mapped after that is not in the memory map, and counts as not clear; a module that
            // comes after that changes the plan's generation. A door needs a precise stack walk.
            let plan = CheckPlan::ask(session, change.number(), change.to_patched())?;
            let attempt = match attempt(session, change, list, &plan) {
                Err(error) if error.is_slow_stop() && session.backoff.wait().is_ok() => continue,
                attempt => attempt?,
            };
            match attempt {
                Attempt::Begun(begun) => return Ok(begun),
                Attempt::LoaderBusy => session.wait_for_loader()?,
                Attempt::InSite(blocked) => {
                    let waited = session.backoff.wait();
                    waited
                        .map_err(|timeout| blocked.into_error(session.process, looks, timeout))?;
                }
            }
        }
    })
}

/// Tries once, in one stop.
fn attempt(
    session: &Session<'_>,
    change: Change,
    list: &ThreadList<'_>,
    plan: &CheckPlan<'_>,
) -> Result<Attempt, Error> {
    let checker = plan.checker();
    let mut sleeping = session.stop_sleepers()?;
    // The running threads run on while the stacks of the sleeping ones are checked.
    let mut check = StopCheck::default();
    sleeping
        .threads()
        .for_each(|thread| check.check(&checker, &thread));
    let arguments = [change.number(), list.address.get()];
    session.prepare_command(&mut sleeping)?;
    let since = Instant::now();
    let mut stopped = sleeping.stop_rest(STOP_TIMEOUT)?;
    // The threads that have been checked have been stopped since then.
    let rest: Vec<ThreadState> = stopped
        .threads_where(|tid| !check.thread_pointers.contains_key(&tid))
        .collect();
    rest.iter().for_each(|thread| check.check(&checker, thread));
    if let Some(blocked) = check.in_site {
        stopped.detach()?;
        return Ok(Attempt::InSite(blocked));
    }
    if session.agent.plan_generation()? != checker.generation()
        || check.thread_pointers.len() > list.capacity
    {
        stopped.detach()?;
        return Ok(Attempt::LoaderBusy);
    }
    check.block_on_suspended(session, &stopped, &checker)?;
    list.write(&records(&check.blocked, &check.thread_pointers))?;
    redirect(session, &mut stopped, change.number(), &check.redirects)?;
    session.agent.note_begin()?;
    let answer = session.command_stopped(&mut stopped, change.command(), arguments)?;
    stopped.detach()?;
    let stopped_for = since.elapsed();
    if answer.is_busy() {
        return Ok(Attempt::LoaderBusy);
    }
    Ok(Attempt::Begun(Begun {
        waiting: answer.done(session.pid())?.value,
        check,
        stopped_for,
    }))
}
