//! Transitions: beginning one in a single stop, turning it round, and going on with one that somebody else began.
//!
//! In the stop all threads that are clear switch at once. Whoever is not keeps the universe that it is in, and
//! is waited for ([`crate::transition::try_complete`]).
//!
//! All state is the agent's. A controller that finds a transition open, whoever began it, goes on with it.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use engraft_abi::Command;
use engraft_process::{StoppedProcess, TargetAddress, ThreadState};

use crate::agent::snapshot::{OpenTransition, PatchState, Snapshot};
use crate::error::Error;
use crate::session::{STOP_TIMEOUT, Session};
use crate::transition::door::behind;
use crate::transition::redirect::lead_out;
use crate::transition::stack_check::{Eyes, Finding, Look, prepare_look};
use crate::transition::suspended::held;
use crate::transition::thread_list::ThreadList;
use crate::transition::try_complete::{complete, drive};

/// Something that moves threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// To the prepared patch with this number.
    Enable(u64),
    /// Back from the enabled patch with this number.
    Disable(u64),
    /// Lets threads go in a transition of this patch that somebody else has begun.
    Start { number: u64, to_patched: bool },
    /// Turns the transition of this patch round, `to_patched` or back.
    Reverse { number: u64, to_patched: bool },
}

impl Change {
    fn number(self) -> u64 {
        match self {
            Self::Enable(number)
            | Self::Disable(number)
            | Self::Start { number, .. }
            | Self::Reverse { number, .. } => number,
        }
    }

    fn to_patched(self) -> bool {
        match self {
            Self::Enable(_) => true,
            Self::Disable(_) => false,
            Self::Start { to_patched, .. } | Self::Reverse { to_patched, .. } => to_patched,
        }
    }

    fn command(self) -> Command {
        match self {
            Self::Enable(_) => Command::Enable,
            Self::Disable(_) => Command::Disable,
            Self::Start { .. } => Command::Start,
            Self::Reverse { .. } => Command::Reverse,
        }
    }

    /// Makes the change, and waits until every thread has switched; how long the threads stood still when it
    /// was made.
    ///
    /// After any error but [`Error::InTransition`], everything is as before.
    pub(crate) fn make(self, session: &Session<'_>) -> Result<Duration, Error> {
        let begun = ThreadList::with(session, |list| self.begin(session, list));
        let result = begun.and_then(|begun| {
            if begun.waiting > 0 {
                drive(session, self.number(), begun.seen)?;
            }
            Ok(begun.stopped_for)
        });
        match result {
            Err(error) if !matches!(error, Error::InTransition { .. }) => {
                self.undo(session, error).map_or(Ok(Duration::ZERO), Err)
            }
            result => result,
        }
    }

    fn begin(self, session: &Session<'_>, list: &ThreadList<'_>) -> Result<Begun, Error> {
        let mut looks = 0;
        loop {
            looks += 1;
            // All that can be done while everybody runs. A stack that is mapped later is not in the map, and
            // counts as not clear; a module that comes later changes the plan's generation.
            // What is inside gets a door, which takes a precise look.
            let look = prepare_look(session, self.number(), self.to_patched(), true)?;
            let attempt = match self.attempt(session, list, &look) {
                Err(error) if error.is_slow_stop() && session.deadline.wait().is_ok() => continue,
                attempt => attempt?,
            };
            match attempt {
                Attempt::Begun(begun) => return Ok(begun),
                Attempt::LoaderBusy => session.wait_for_loader()?,
                Attempt::InSite(finding) => {
                    let waited = session.deadline.wait();
                    waited.map_err(|timeout| finding.inside(session.process, looks, timeout))?;
                }
            }
        }
    }

    /// One stop.
    fn attempt(
        self,
        session: &Session<'_>,
        list: &ThreadList<'_>,
        look: &Look<'_>,
    ) -> Result<Attempt, Error> {
        let eyes = look.eyes();
        let mut sleeping = session.stop_sleepers()?;
        // Those who run go on while the stacks of all others are looked at.
        let mut findings = Findings::default();
        sleeping
            .threads()
            .for_each(|thread| findings.look(&eyes, &thread));
        let arguments = [self.number(), list.address.get()];
        session.prepare_command(&mut sleeping)?;
        let since = Instant::now();
        let mut stopped = sleeping.stop_rest(STOP_TIMEOUT)?;
        // Nothing has changed for those that have been looked at.
        let rest: Vec<ThreadState> = stopped
            .threads_where(|tid| !findings.pointers.contains_key(&tid))
            .collect();
        rest.iter().for_each(|thread| findings.look(&eyes, thread));
        if let Some(finding) = findings.in_site {
            stopped.detach()?;
            return Ok(Attempt::InSite(finding));
        }
        if session.agent.plan_generation()? != eyes.generation()
            || findings.pointers.len() > list.capacity
        {
            stopped.detach()?;
            return Ok(Attempt::LoaderBusy);
        }
        findings.hold_together(session, &stopped, &eyes)?;
        list.write(&behind(&findings.behind, &findings.pointers))?;
        lead_out(session, &mut stopped, self.number(), &findings.led)?;
        session.agent.note_begin()?;
        let answer = session.command_stopped(&mut stopped, self.command(), arguments)?;
        stopped.detach()?;
        let stopped_for = since.elapsed();
        if answer.is_busy() {
            return Ok(Attempt::LoaderBusy);
        }
        Ok(Attempt::Begun(Begun {
            waiting: answer.done(session.pid())?.value,
            seen: findings,
            stopped_for,
        }))
    }

    /// Brings everything back to where it was before the change failed; the error to report. None if the change
    /// was made, and what failed was something after it.
    fn undo(self, session: &Session<'_>, error: Error) -> Option<Error> {
        if !session.process.is_alive() {
            return Some(error);
        }
        match self.try_undo(session) {
            Ok(Undone::Yes) => Some(error),
            Ok(Undone::ItWasDone) => {
                tracing::warn!(%error, "the change was made all the same");
                None
            }
            Err(undo) => Some(Error::NotUndone {
                source: error.into(),
                undo: undo.into(),
            }),
        }
    }

    fn try_undo(self, session: &Session<'_>) -> Result<Undone, Error> {
        // The thread that carried the command out may be at it still.
        session.settle()?;
        let snapshot = Snapshot::read(&session.agent)?;
        if snapshot.prepared == Some(self.number()) {
            let answer = session.command(Command::Abandon, [self.number(), 0])?;
            return answer.done(session.pid()).map(|_| Undone::Yes);
        }
        let open = snapshot.transition;
        match open.filter(|open| open.number == self.number()) {
            // It leads back already: the agent has begun to undo, or it was to be turned round and was not.
            Some(open) if open.to_patched != self.to_patched() && !open.canceled => {
                if !matches!(self, Self::Reverse { .. }) {
                    go_on(session, &open)?;
                }
            }
            Some(open) if open.canceled => complete(session, open.number)?,
            Some(open) => {
                let back = Self::Reverse {
                    number: open.number,
                    to_patched: !open.to_patched,
                };
                let begun = ThreadList::with(session, |list| back.begin(session, list))?;
                if begun.waiting > 0 {
                    drive(session, open.number, begun.seen)?;
                }
            }
            None => {
                let number = self.number();
                let patch = snapshot.patches.iter().find(|it| it.number == number);
                let is_enabled = patch.is_some_and(|it| it.state == PatchState::Enabled);
                if is_enabled == self.to_patched() {
                    return Ok(Undone::ItWasDone);
                }
            }
        }
        Ok(Undone::Yes)
    }
}

/// What came of undoing a change.
enum Undone {
    Yes,
    /// There was nothing to undo: the change was made.
    ItWasDone,
}

/// How one attempt at a change ended.
enum Attempt {
    Begun(Begun),
    /// A library is coming or going.
    LoaderBusy,
    /// A thread is about to execute the middle of what has to be overwritten.
    InSite(Finding),
}

/// A change that was made for all threads that were clear.
struct Begun {
    waiting: u64,
    seen: Findings,
    stopped_for: Duration,
}

/// What was seen in one stop.
#[derive(Default)]
pub(crate) struct Findings {
    /// The thread pointers of all threads, by their numbers.
    pub(crate) pointers: HashMap<i32, u64>,
    /// Those that are not clear.
    pub(crate) behind: Vec<Finding>,
    in_site: Option<Finding>,
    /// Those that execute the middle of what will be overwritten, and where they find the same instructions.
    led: Vec<(i32, TargetAddress)>,
}

impl Findings {
    /// Keeps all threads back if a context that none of them runs is inside.
    fn hold_together(
        &mut self,
        session: &Session<'_>,
        stopped: &StoppedProcess,
        eyes: &Eyes<'_>,
    ) -> Result<(), Error> {
        let threads: Vec<ThreadState> = stopped.threads().collect();
        let Some(held) = held(session, &threads, eyes.ranges())? else {
            return Ok(());
        };
        // Who comes to the door may be about to go on with what is suspended.
        self.behind
            .iter_mut()
            .for_each(|finding| finding.door = None);
        let behind: HashSet<i32> = self.behind.iter().map(|finding| finding.tid).collect();
        let clear = threads.iter().filter(|it| !behind.contains(&it.tid));
        self.behind
            .extend(clear.filter(|it| !it.is_kernel_worker).map(held));
        Ok(())
    }

    fn look(&mut self, eyes: &Eyes<'_>, thread: &ThreadState) {
        let pointer = thread.registers.thread_pointer().get();
        self.pointers.insert(thread.tid, pointer);
        // Also if it is clear: it may be in an unwinder, which gets a site as well.
        let way_out = eyes.way_out(thread);
        self.led.extend(way_out.map(|to| (thread.tid, to)));
        let Some(finding) = eyes.finding(thread) else {
            return;
        };
        let mut led = *thread;
        led.registers.rip = way_out.map_or(led.registers.rip, TargetAddress::get);
        if eyes.may_return_into_site(&led) {
            self.in_site.get_or_insert_with(|| finding.clone());
        }
        self.behind.push(finding);
    }
}

/// Ends whatever a controller that died has left: nobody else would. What it had only prepared is given up,
/// what it had begun is brought to its end, unless that is what `ours` is about.
pub(crate) fn take_over(session: &Session<'_>, ours: &str) -> Result<(), Error> {
    loop {
        let snapshot = Snapshot::read(&session.agent)?;
        if let Some(open) = snapshot.transition {
            if open.name == ours && !open.canceled {
                return Ok(());
            }
            go_on(session, &open).map_err(|error| error.keeps_waiting(ours))?;
            continue;
        }
        let Some(prepared) = snapshot.prepared else {
            return Ok(());
        };
        let answer = session.command(Command::Abandon, [prepared, 0])?;
        answer.done(session.pid())?;
        tracing::info!("gave up what a controller had prepared that has died");
    }
}

/// Brings a transition that somebody else began to the end that it leads to.
pub(crate) fn go_on(session: &Session<'_>, open: &OpenTransition) -> Result<(), Error> {
    let OpenTransition {
        number, to_patched, ..
    } = *open;
    if open.canceled {
        complete(session, number)
    } else if open.started {
        drive(session, number, Findings::default())
    } else {
        Change::Start { number, to_patched }.make(session).map(drop)
    }
}

/// Turns a transition round.
pub(crate) fn turn(session: &Session<'_>, open: &OpenTransition) -> Result<Duration, Error> {
    Change::Reverse {
        number: open.number,
        to_patched: !open.to_patched,
    }
    .make(session)
}
