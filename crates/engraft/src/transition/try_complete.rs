//! Completing a transition: checking the threads that have yet to switch until every one has.
//!
//! Each is stopped and checked by itself; all others run on. A thread that leaves a function tells
//! nobody, so there is nothing to wait for but time.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use engraft_abi::Command;
use engraft_process::{StoppedProcess, StoppedThread, TaskState, ThreadState};

use super::door::{set_door, set_door_stopped};
use super::last_check::LastCheck;
use super::stack_check::{BlockedThread, CheckPlan, StackChecker};
use super::stop_check::StopCheck;
use super::suspended::block_on_suspended;
use crate::agent::calls::STOP_TIMEOUT;
use crate::agent::running::Answer;
use crate::agent::snapshot::{OpenTransition, Snapshot};
use crate::error::Error;
use crate::session::Session;

/// Tries to complete the transition of a patch until the deadline: waits until every thread has
/// switched, and ends the transition. `check` is what the stop has shown in which the transition
/// began; other threads may be pending, too.
///
/// # Errors
/// [`Error::InTransition`] if the time is up: the transition stays open, for any later command.
pub(super) fn try_complete(
    session: &Session<'_>,
    number: u64,
    check: StopCheck,
) -> Result<(), Error> {
    let mut pending = PendingThreads::new(check);
    loop {
        let open = Snapshot::read(&session.agent)?.transition;
        let Some(open) = open.filter(|open| open.number == number) else {
            // Another controller has completed it.
            return Ok(());
        };
        if open.pending.is_empty() {
            return complete(session, number);
        }
        let left = match pending.due(session, &open) {
            Some(due) => {
                // Stacks may be mapped, and modules come and go, at any time: each round has a plan
                // of its own.
                let plan = CheckPlan::ask(session, open.number, open.to_patched)?;
                pending.check(session, &open, &plan, due)?
            }
            // Asking for a plan stops the thread that makes calls for us, which may be a thread
            // that is not due.
            None => open.pending.len(),
        };
        if left > 0 {
            let all_switched = || {
                let pending = open.words.pending(session.process);
                pending.is_ok_and(|pending| pending.is_empty())
            };
            let waited = session.wait_unlocked(all_switched);
            waited.map_err(|timeout| pending.in_transition(session, &open, left, timeout))?;
        }
    }
}

/// Ends a transition in which every thread has switched.
pub(crate) fn complete(session: &Session<'_>, number: u64) -> Result<(), Error> {
    finish(session, Command::Complete, number)
}

/// Ends a transition by this command, while all threads are stopped.
pub(crate) fn finish(session: &Session<'_>, command: Command, number: u64) -> Result<(), Error> {
    loop {
        let mut stopped = session.stop()?;
        let answer = session.command_stopped(&mut stopped, command, [number, 0])?;
        stopped.detach()?;
        if !answer.is_busy() {
            return answer.done(session.pid()).map(drop);
        }
        session.wait_for_loader()?;
    }
}

/// What is to be checked in a round.
#[derive(Default)]
struct Due {
    /// Threads that are checked each by itself.
    threads: BTreeSet<i32>,
    /// A thread pointer is that of no thread or of several, which takes a check of all threads.
    unknown: bool,
}

/// What is known of the threads that have yet to switch.
struct PendingThreads {
    /// The thread pointer of every thread that was there at the last stop of all, by thread number.
    pointers: HashMap<i32, u64>,
    /// The last check of each thread that was blocked, by thread number.
    blocked: HashMap<i32, LastCheck>,
    /// A thread that was blocked by a suspended context at the last stop of all. The pending
    /// threads may all have ended.
    by_context: Option<BlockedThread>,
    /// In how many rounds pending threads were checked.
    checks: usize,
}

impl PendingThreads {
    fn new(check: StopCheck) -> Self {
        let blocked = check.blocked.into_iter();
        Self {
            pointers: check.thread_pointers,
            blocked: blocked
                .map(|blocked| (blocked.tid, LastCheck::at_begin(blocked)))
                .collect(),
            by_context: None,
            checks: 0,
        }
    }

    /// What is to be checked in this round; `None` if nothing is.
    fn due(&self, session: &Session<'_>, open: &OpenTransition) -> Option<Due> {
        let mut due = Due::default();
        for pointer in &open.pending {
            // Threads that share one thread pointer, or have none, switch together.
            match self.only_thread(*pointer).filter(|_| *pointer != 0) {
                None => due.unknown = true,
                Some(tid) if self.was_checked(session, tid, open.has_door(*pointer)) => {}
                Some(tid) => drop(due.threads.insert(tid)),
            }
        }
        // Nothing shows when a suspended context is resumed.
        let is_any = self.by_context.is_some() || due.unknown || !due.threads.is_empty();
        is_any.then_some(due)
    }

    /// Checks what is due. Returns how many threads are left.
    fn check(
        &mut self,
        session: &Session<'_>,
        open: &OpenTransition,
        plan: &CheckPlan<'_>,
        due: Due,
    ) -> Result<usize, Error> {
        self.checks += 1;
        let checker = plan.checker();
        if session.contexts.are_scanned() {
            return match session.contexts.may_scan() {
                true => self.check_all(session, open, &checker),
                false => Ok(open.pending.len()),
            };
        }
        let mut left = open.pending.len();
        let Due {
            threads: mut unseen,
            mut unknown,
        } = due;
        let tids: Vec<i32> = unseen.iter().copied().collect();
        let visit = |thread: &mut StoppedThread<'_>| {
            unseen.remove(&thread.state().tid);
            match self.check_one(session, open, &checker, thread)? {
                OneCheck::Switched => left -= 1,
                OneCheck::Blocked => {}
                OneCheck::Unknown => unknown = true,
            }
            Ok::<_, Error>(())
        };
        match session.process.stop_each(&tids, STOP_TIMEOUT, visit) {
            // The threads that are left are stopped again in the next round.
            Err(error) if error.is_slow_stop() => {}
            visited => visited?,
        }
        let is_there = |tid: &i32| {
            let stat = session.process.task(*tid).stat();
            matches!(stat, Ok(Some(stat)) if stat.state != TaskState::Dead)
        };
        unknown |= !unseen.iter().all(is_there);
        if unknown {
            left = self.check_all(session, open, &checker)?;
        }
        Ok(left)
    }

    /// The only thread that had this thread pointer at the last stop of all.
    fn only_thread(&self, pointer: u64) -> Option<i32> {
        let mut those = self.pointers.iter().filter(|(_, of)| **of == pointer);
        let (tid, _) = those.next()?;
        those.next().is_none().then_some(*tid)
    }

    /// Whether all threads that are there now were there at the last stop of all.
    fn knows_all(&self, session: &Session<'_>) -> Result<bool, Error> {
        let process = session.process;
        let threads = process.threads().map_err(Error::reading(process))?;
        Ok(threads.iter().all(|tid| self.pointers.contains_key(tid)))
    }

    /// Whether a thread need not be checked yet.
    fn was_checked(&self, session: &Session<'_>, tid: i32, has_door: bool) -> bool {
        let last = self.blocked.get(&tid);
        last.is_some_and(|last| last.is_recent(session.process, has_door))
    }

    /// Takes note of a check that has found a thread blocked.
    fn note(&mut self, blocked: BlockedThread) {
        let tid = blocked.tid;
        let last = LastCheck::now(blocked, self.blocked.get(&tid));
        self.blocked.insert(tid, last);
    }

    /// Checks one stopped thread, and switches it if it is clear.
    fn check_one(
        &mut self,
        session: &Session<'_>,
        open: &OpenTransition,
        checker: &StackChecker<'_>,
        thread: &mut StoppedThread<'_>,
    ) -> Result<OneCheck, Error> {
        let state = *thread.state();
        let pointer = state.registers.thread_pointer().get();
        if self.pointers.get(&state.tid) != Some(&pointer) {
            return Ok(OneCheck::Unknown);
        }
        if session.agent.plan_generation()? != checker.generation() {
            // The thread may be inside of a module that came after the plan was made.
            return Ok(OneCheck::Blocked);
        }
        if let Some(blocked) = checker.check(&state) {
            // A thread that is not known may have the same thread pointer.
            if self.knows_all(session)? {
                let before = self.blocked.get(&state.tid).map(|last| &last.blocked);
                set_door(session, open, thread, &blocked, before)?;
            }
            self.note(blocked);
            return Ok(OneCheck::Blocked);
        }
        if !self.knows_all(session)? {
            // It may have started a thread that has its thread pointer, and is inside.
            return Ok(OneCheck::Unknown);
        }
        let (agent, arguments) = (&session.agent, [open.number, pointer]);
        let switched = agent.command_writing(thread, Command::Switch, arguments);
        switched_or_busy(session, session.note_unfinished(switched)?)
    }

    /// Stops all threads, and checks every pending one. Needed where threads have ended, or are not
    /// known. Returns how many thread pointers are left.
    fn check_all(
        &mut self,
        session: &Session<'_>,
        open: &OpenTransition,
        checker: &StackChecker<'_>,
    ) -> Result<usize, Error> {
        let mut stopped = session.stop()?;
        let left = self.check_stopped(session, &mut stopped, open, checker);
        stopped.detach()?;
        left
    }

    fn check_stopped(
        &mut self,
        session: &Session<'_>,
        stopped: &mut StoppedProcess,
        open: &OpenTransition,
        checker: &StackChecker<'_>,
    ) -> Result<usize, Error> {
        if session.agent.plan_generation()? != checker.generation() {
            return Ok(open.pending.len());
        }
        let threads: Vec<ThreadState> = stopped.threads().collect();
        let pointer = |it: &ThreadState| (it.tid, it.registers.thread_pointer().get());
        self.pointers = threads.iter().map(pointer).collect();
        self.blocked
            .retain(|tid, _| self.pointers.contains_key(tid));
        if self.are_blocked_by_context(session, &threads, open, checker)? {
            return Ok(open.pending.len());
        }
        let now = Snapshot::read(&session.agent)?.transition;
        let mut left = 0;
        for pointer in now.map(|now| now.pending).unwrap_or_default() {
            if !self.try_switch(session, stopped, &threads, (open, pointer), checker)? {
                left += 1;
            }
        }
        Ok(left)
    }

    /// Switches the threads with this thread pointer if all of them are clear. Returns whether they
    /// have switched.
    fn try_switch(
        &mut self,
        session: &Session<'_>,
        stopped: &mut StoppedProcess,
        threads: &[ThreadState],
        (open, pointer): (&OpenTransition, u64),
        checker: &StackChecker<'_>,
    ) -> Result<bool, Error> {
        let same = |it: &&ThreadState| it.registers.thread_pointer().get() == pointer;
        let those: Vec<&ThreadState> = threads.iter().filter(same).collect();
        let check = |thread: &&ThreadState| checker.check(thread);
        let blocked: Vec<BlockedThread> = those.iter().filter_map(check).collect();
        if !blocked.is_empty() {
            // No suspended context is inside, as a look at all of memory has shown where that
            // matters.
            if let ([_], [blocked]) = (those.as_slice(), blocked.as_slice()) {
                let before = self.blocked.get(&blocked.tid).map(|last| &last.blocked);
                set_door_stopped(session, open, stopped, blocked, before)?;
            }
            blocked.into_iter().for_each(|blocked| self.note(blocked));
            return Ok(false);
        }
        let command = match those.is_empty() {
            true => Command::ThreadExited,
            false => Command::Switch,
        };
        let answer = session.command_stopped(stopped, command, [open.number, pointer])?;
        Ok(switched_or_busy(session, answer)? == OneCheck::Switched)
    }

    /// Whether no thread may switch because a suspended context is inside.
    fn are_blocked_by_context(
        &mut self,
        session: &Session<'_>,
        threads: &[ThreadState],
        open: &OpenTransition,
        checker: &StackChecker<'_>,
    ) -> Result<bool, Error> {
        let is_pending = |it: &&ThreadState| {
            let pointer = it.registers.thread_pointer().get();
            open.pending.contains(&pointer) && !it.is_kernel_worker
        };
        self.by_context = None;
        let Some(block) = block_on_suspended(session, threads, checker.ranges())? else {
            return Ok(false);
        };
        self.by_context = threads.iter().find(|it| !it.is_kernel_worker).map(&block);
        let pending: Vec<&ThreadState> = threads.iter().filter(is_pending).collect();
        for thread in pending {
            let blocked = checker.check(thread).unwrap_or_else(|| block(thread));
            self.note(blocked);
        }
        Ok(true)
    }

    /// The error that the time is up.
    fn in_transition(
        &self,
        session: &Session<'_>,
        open: &OpenTransition,
        pending: usize,
        timeout: Duration,
    ) -> Error {
        let blocked = self.blocked.values().map(|last| &last.blocked);
        let first = blocked
            .filter(|blocked| open.pending.contains(&blocked.pointer))
            .min_by_key(|blocked| blocked.tid)
            .or(self.by_context.as_ref())
            .cloned();
        Error::InTransition {
            pid: session.pid(),
            name: open.name.clone(),
            to_patched: open.to_patched,
            waiting: pending,
            at_next_call: open.with_door.len().min(pending),
            inside: first.map(|blocked| {
                blocked
                    .into_error(session.process, self.checks, timeout)
                    .into()
            }),
        }
    }
}

/// What checking one thread by itself has led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OneCheck {
    Switched,
    Blocked,
    /// Only a check of all threads can tell.
    Unknown,
}

fn switched_or_busy(session: &Session<'_>, answer: Answer) -> Result<OneCheck, Error> {
    if answer.is_busy() {
        return Ok(OneCheck::Blocked);
    }
    answer.done(session.pid())?;
    Ok(OneCheck::Switched)
}
