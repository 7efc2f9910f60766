//! Driving a transition: looking at the threads that stayed behind until every one has switched.
//!
//! Each is looked at by itself; all others run on. There is nothing to wait for but time: a thread that leaves a
//! function tells nobody. But one that sleeps where it slept at the last look is most likely still inside, and is
//! not stopped again as often.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use engraft_abi::Command;
use engraft_process::{Activity, StoppedProcess, StoppedThread, TaskState, ThreadState};

use crate::agent::running::Answer;
use crate::agent::snapshot::{OpenTransition, Snapshot};
use crate::error::Error;
use crate::session::{STOP_TIMEOUT, Session};
use crate::transition::change::Findings;
use crate::transition::door::set_door;
use crate::transition::stack_check::{Eyes, Finding, Look, prepare_look};
use crate::transition::suspended::held;

/// How long a thread that seems to sleep on is left alone. It may have left, and sleep at the same depth in
/// something else.
const SLEEPS_ON: Duration = Duration::from_millis(500);

/// Waits until every thread has switched in the transition of a patch, and ends it. `seen` is what the stop has
/// shown in which it began; more may be waited for.
///
/// # Errors
/// [`Error::InTransition`] if the time is up: the transition stays open, for whoever comes next.
pub(crate) fn drive(session: &Session<'_>, number: u64, seen: Findings) -> Result<(), Error> {
    let mut driver = Driver::new(seen);
    loop {
        let open = Snapshot::read(&session.agent)?.transition;
        let Some(open) = open.filter(|open| open.number == number) else {
            // Somebody else was faster.
            return Ok(());
        };
        if open.waiting.is_empty() {
            return complete(session, number);
        }
        // Stacks may be mapped, and modules come and go, at any time: each round has a look of its own.
        let look = prepare_look(session, number, open.to_patched, true)?;
        let left = driver.round(session, &open, &look)?;
        if left > 0 {
            let all_switched = || {
                let waiting = open.words.waiting(session.process);
                waiting.is_ok_and(|waiting| waiting.is_empty())
            };
            let waited = session.rest(all_switched);
            waited.map_err(|timeout| driver.in_transition(session, &open, left, timeout))?;
        }
    }
}

/// Ends a transition that waits for nobody.
pub(crate) fn complete(session: &Session<'_>, number: u64) -> Result<(), Error> {
    end(session, Command::Complete, number)
}

/// Ends a transition by this command, while everybody stands still.
pub(crate) fn end(session: &Session<'_>, command: Command, number: u64) -> Result<(), Error> {
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

/// What is known of the threads that are waited for.
struct Driver {
    /// The thread pointers of all threads that were there at the last stop of everybody, by their numbers.
    pointers: HashMap<i32, u64>,
    /// The last finding about each thread, and when that was; no time where only the conservative scan has
    /// looked.
    findings: HashMap<i32, (Finding, Option<Instant>)>,
    /// A thread that was held by a suspended context at the last stop of everybody. Those that are waited for may
    /// all have ended.
    held: Option<Finding>,
    /// How often all that are waited for were looked at, or seen sleeping where they slept.
    looks: usize,
}

impl Driver {
    fn new(seen: Findings) -> Self {
        let findings = seen.behind.into_iter();
        Self {
            pointers: seen.pointers,
            findings: findings
                .map(|finding| (finding.tid, (finding, None)))
                .collect(),
            held: None,
            looks: 0,
        }
    }

    /// The thread that alone had this thread pointer at the last stop of everybody.
    fn only_thread(&self, pointer: u64) -> Option<i32> {
        let mut those = self.pointers.iter().filter(|(_, of)| **of == pointer);
        let (tid, _) = those.next()?;
        those.next().is_none().then_some(*tid)
    }

    /// Whether all threads that are there now were there at the last stop of everybody.
    fn knows_all(&self, session: &Session<'_>) -> Result<bool, Error> {
        let process = session.process;
        let threads = process.threads().map_err(Error::looking_at(process))?;
        Ok(threads.iter().all(|tid| self.pointers.contains_key(tid)))
    }

    /// Whether a thread sleeps where it slept when it was last looked at, not long ago.
    fn sleeps_on(&self, session: &Session<'_>, tid: i32) -> bool {
        let Some((finding, Some(since))) = self.findings.get(&tid) else {
            return false;
        };
        match session.process.task(tid).activity() {
            Ok(Some(Activity::InSystemCall {
                stack_pointer,
                instruction_pointer,
                ..
            })) => {
                since.elapsed() < SLEEPS_ON && finding.place == (stack_pointer, instruction_pointer)
            }
            _ => false,
        }
    }

    /// Looks once at all that are waited for, each by itself; how many are left.
    fn round(
        &mut self,
        session: &Session<'_>,
        open: &OpenTransition,
        look: &Look<'_>,
    ) -> Result<usize, Error> {
        self.looks += 1;
        let eyes = look.eyes();
        if session.contexts.are_looked_for() {
            return match session.contexts.may_look() {
                true => self.look_at_all(session, open, &eyes),
                false => Ok(open.waiting.len()),
            };
        }
        let mut left = open.waiting.len();
        let mut unknown = false;
        let mut unseen = BTreeSet::new();
        for pointer in &open.waiting {
            // Threads that share one thread pointer, or have none, switch together.
            match self.only_thread(*pointer).filter(|_| *pointer != 0) {
                None => unknown = true,
                Some(tid) if self.sleeps_on(session, tid) => {}
                Some(tid) => drop(unseen.insert(tid)),
            }
        }
        let tids: Vec<i32> = unseen.iter().copied().collect();
        let look = |thread: &mut StoppedThread<'_>| {
            unseen.remove(&thread.state().tid);
            match self.look_alone(session, open, &eyes, thread)? {
                Alone::Switched => left -= 1,
                Alone::NotClear => {}
                Alone::Unknown => unknown = true,
            }
            Ok::<_, Error>(())
        };
        match session.process.visit_threads(&tids, STOP_TIMEOUT, look) {
            // What is left is there at the next look.
            Err(error) if error.is_slow_stop() => {}
            visited => visited?,
        }
        let is_there = |tid: &i32| {
            let stat = session.process.task(*tid).stat();
            matches!(stat, Ok(Some(stat)) if stat.state != TaskState::Dead)
        };
        unknown |= !unseen.iter().all(is_there);
        if unknown {
            left = self.look_at_all(session, open, &eyes)?;
        }
        Ok(left)
    }

    /// Looks at one thread, which stands still, and switches it if it is clear.
    fn look_alone(
        &mut self,
        session: &Session<'_>,
        open: &OpenTransition,
        eyes: &Eyes<'_>,
        thread: &mut StoppedThread<'_>,
    ) -> Result<Alone, Error> {
        let state = *thread.state();
        let pointer = state.registers.thread_pointer().get();
        if self.pointers.get(&state.tid) != Some(&pointer) {
            return Ok(Alone::Unknown);
        }
        if session.agent.plan_generation()? != eyes.generation() {
            // It may be inside of a module that came after the plan was made.
            return Ok(Alone::NotClear);
        }
        if let Some(finding) = eyes.finding(&state) {
            let now = Some(Instant::now());
            // Nobody else has its thread pointer, or may come to have it.
            if self.knows_all(session)? {
                let before = self.findings.get(&state.tid).map(|(finding, _)| finding);
                set_door(session, open, thread, &finding, before)?;
            }
            self.findings.insert(state.tid, (finding, now));
            return Ok(Alone::NotClear);
        }
        if !self.knows_all(session)? {
            // It may have started a thread that has its thread pointer, and is inside.
            return Ok(Alone::Unknown);
        }
        let (agent, arguments) = (&session.agent, [open.number, pointer]);
        let switched = agent.command_writing(thread, Command::Switch, arguments);
        switched_or_busy(session, session.watch(switched)?)
    }

    /// Stops everybody, and finds out who is who: threads have ended, or nobody knows them. How many are
    /// left.
    fn look_at_all(
        &mut self,
        session: &Session<'_>,
        open: &OpenTransition,
        eyes: &Eyes<'_>,
    ) -> Result<usize, Error> {
        let mut stopped = session.stop()?;
        let left = self.look_at_stopped(session, &mut stopped, open, eyes);
        stopped.detach()?;
        left
    }

    fn look_at_stopped(
        &mut self,
        session: &Session<'_>,
        stopped: &mut StoppedProcess,
        open: &OpenTransition,
        eyes: &Eyes<'_>,
    ) -> Result<usize, Error> {
        if session.agent.plan_generation()? != eyes.generation() {
            return Ok(open.waiting.len());
        }
        let mut left = 0;
        self.findings.clear();
        let threads: Vec<ThreadState> = stopped.threads().collect();
        let pointer = |it: &ThreadState| (it.tid, it.registers.thread_pointer().get());
        self.pointers = threads.iter().map(pointer).collect();
        if self.are_held(session, &threads, open, eyes)? {
            return Ok(open.waiting.len());
        }
        for pointer in Snapshot::read(&session.agent)?
            .transition
            .map(|now| now.waiting)
            .unwrap_or_default()
        {
            let same = |it: &&ThreadState| it.registers.thread_pointer().get() == pointer;
            let those: Vec<&ThreadState> = threads.iter().filter(same).collect();
            let findings: Vec<Finding> = those
                .iter()
                .filter_map(|thread| eyes.finding(thread))
                .collect();
            if !findings.is_empty() {
                left += 1;
                let findings = findings.into_iter();
                self.findings
                    .extend(findings.map(|finding| (finding.tid, (finding, Some(Instant::now())))));
                continue;
            }
            let command = match those.is_empty() {
                true => Command::ThreadExited,
                false => Command::Switch,
            };
            let answer = session.command_stopped(stopped, command, [open.number, pointer])?;
            if switched_or_busy(session, answer)? != Alone::Switched {
                left += 1;
            }
        }
        Ok(left)
    }

    /// Whether nobody may switch, because a context that no thread runs is inside.
    fn are_held(
        &mut self,
        session: &Session<'_>,
        threads: &[ThreadState],
        open: &OpenTransition,
        eyes: &Eyes<'_>,
    ) -> Result<bool, Error> {
        let waits = |it: &&ThreadState| {
            let pointer = it.registers.thread_pointer().get();
            open.waiting.contains(&pointer) && !it.is_kernel_worker
        };
        self.held = None;
        let Some(held) = held(session, threads, eyes.ranges())? else {
            return Ok(false);
        };
        self.held = threads.iter().find(|it| !it.is_kernel_worker).map(&held);
        let waiting: Vec<&ThreadState> = threads.iter().filter(waits).collect();
        for thread in waiting {
            let finding = eyes.finding(thread).unwrap_or_else(|| held(thread));
            let found = (finding, Some(Instant::now()));
            self.findings.insert(thread.tid, found);
        }
        Ok(true)
    }

    /// The time is up.
    fn in_transition(
        &self,
        session: &Session<'_>,
        open: &OpenTransition,
        waiting: usize,
        timeout: Duration,
    ) -> Error {
        let findings = self.findings.values().map(|(finding, _)| finding);
        let first = findings
            .filter(|finding| open.waiting.contains(&finding.pointer))
            .min_by_key(|finding| finding.tid)
            .or(self.held.as_ref())
            .cloned();
        Error::InTransition {
            pid: session.pid(),
            name: open.name.clone(),
            to_patched: open.to_patched,
            waiting,
            inside: first
                .map(|finding| finding.inside(session.process, self.looks, timeout).into()),
        }
    }
}

/// What came of looking at one thread alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alone {
    Switched,
    NotClear,
    /// It takes a look at all threads to find out.
    Unknown,
}

fn switched_or_busy(session: &Session<'_>, answer: Answer) -> Result<Alone, Error> {
    if answer.is_busy() {
        return Ok(Alone::NotClear);
    }
    answer.done(session.pid())?;
    Ok(Alone::Switched)
}
