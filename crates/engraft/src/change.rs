//! A change to a patch or back from it, made in one stop in which every thread is clear.
//!
//! A thread that is not clear makes the whole change wait: all are let go, and looked at again later.
//! There is nothing to wait for but time: a thread that leaves a function tells nobody.

use std::ops::Range;
use std::time::{Duration, Instant};

use engraft_abi::{CodeRange, Command};
use engraft_process::{
    Maps, Process, StackScan, StackWalk, StoppedProcess, TargetAddress, ThreadState, Verdict,
    WalkContext,
};

use crate::agent::Plan;
use crate::error::{Error, Inside};
use crate::session::Session;

/// A prepared change.
#[derive(Clone, Copy)]
pub(crate) enum Change {
    /// To the patch with this number.
    Enable(u64),
    /// Back from the patch with this number.
    Disable(u64),
}

impl Change {
    fn command(self) -> (Command, [u64; 2]) {
        match self {
            Self::Enable(number) => (Command::Enable, [number, 0]),
            Self::Disable(number) => (Command::Disable, [number, 0]),
        }
    }

    fn plan(self) -> [u64; 2] {
        match self {
            Self::Enable(number) => [number, 1],
            Self::Disable(number) => [number, 0],
        }
    }

    /// Makes the change; how long the threads stood still for it.
    pub(crate) fn make(self, session: &Session<'_>) -> Result<Duration, Error> {
        // The conservative scan costs microseconds and is enough for most threads. Only when one is in the
        // way is it worth to find out, while everybody runs, how to walk stacks precisely.
        let mut unwinding = None;
        loop {
            // All that can be done while everybody runs. A stack that is mapped later is not in the
            // map, and counts as not clear; a module that comes later changes the plan's generation.
            session
                .command(Command::Plan, self.plan())?
                .done(session.pid())?;
            let plan = session.agent.plan()?;
            let maps = session.process.maps()?;
            let mut stopped = session.stop()?;
            let attempt = self.attempt(session, &mut stopped, plan, &maps, unwinding.as_ref())?;
            stopped.detach()?;
            match attempt {
                Attempt::Done { stopped_for } => return Ok(stopped_for),
                Attempt::LoaderBusy => session.wait_for_loader()?,
                Attempt::ThreadInside(error) => {
                    session.deadline.wait().map_err(|_| error)?;
                    unwinding = Some(WalkContext::prepare(session.process)?);
                }
            }
        }
    }

    /// Makes the change if every thread is clear.
    fn attempt(
        self,
        session: &Session<'_>,
        stopped: &mut StoppedProcess,
        mut plan: Plan,
        maps: &Maps,
        mut unwinding: Option<&WalkContext>,
    ) -> Result<Attempt, Error> {
        let since = Instant::now();
        let pid = session.pid();
        if session.agent.plan_generation()? != plan.generation {
            let planned = session.command_stopped(stopped, Command::Plan, self.plan())?;
            if planned.is_busy() {
                return Ok(Attempt::LoaderBusy);
            }
            planned.done(pid)?;
            plan = session.agent.plan()?;
            // Its unwind tables may be those of a module that has gone.
            unwinding = None;
        }
        let timeout = session.deadline.timeout;
        if let Some(error) = first_not_clear(stopped, maps, unwinding, &plan.ranges, timeout) {
            return Ok(Attempt::ThreadInside(error));
        }
        let (command, arguments) = self.command();
        let changed = session.command_stopped(stopped, command, arguments)?;
        if changed.is_busy() {
            return Ok(Attempt::LoaderBusy);
        }
        changed.done(pid)?;
        session.agent.verify_writes()?;
        Ok(Attempt::Done {
            stopped_for: since.elapsed(),
        })
    }
}

/// How one attempt at a change ended.
enum Attempt {
    Done {
        stopped_for: Duration,
    },
    /// A library is coming or going.
    LoaderBusy,
    /// A thread is not clear; which one and why.
    ThreadInside(Error),
}

/// The first thread that executes or may return into one of the ranges, as an error.
pub(crate) fn first_not_clear(
    stopped: &StoppedProcess,
    maps: &Maps,
    unwinding: Option<&WalkContext>,
    ranges: &[CodeRange],
    timeout: Duration,
) -> Option<Error> {
    let process = stopped.process();
    let scan = StackScan::new(process, maps, &addresses(ranges));
    let walk = unwinding.map(|context| StackWalk::new(process, maps, context));
    for thread in stopped.threads() {
        let verdict = match &walk {
            Some(walk) => scan.check_precisely(&thread, walk),
            None => scan.check(&thread),
        };
        let (reason, start) = match verdict {
            Verdict::Clear => continue,
            Verdict::Running { range, .. } => (Inside::Running, Some(range.start)),
            Verdict::Sleeping { range, .. } => (Inside::Sleeping, Some(range.start)),
            Verdict::Unreliable(reason) => {
                tracing::info!(tid = thread.tid, %reason, "stack not understood");
                (Inside::Unreliable, None)
            }
        };
        return Some(thread_inside(
            process, &thread, reason, ranges, start, timeout,
        ));
    }
    None
}

/// Ranges of the agent's as addresses of the target.
pub(crate) fn addresses(ranges: &[CodeRange]) -> Vec<Range<TargetAddress>> {
    let addresses = |range: &CodeRange| range.start.into()..range.end.into();
    ranges.iter().map(addresses).collect()
}

fn thread_inside(
    process: &Process,
    thread: &ThreadState,
    reason: Inside,
    ranges: &[CodeRange],
    start: Option<TargetAddress>,
    timeout: Duration,
) -> Error {
    let start = start.map(TargetAddress::get);
    let range = ranges
        .iter()
        .find(|range| start.is_none_or(|start| range.start == start));
    let name = process.task(thread.tid).name();
    Error::ThreadInside {
        pid: process.pid(),
        tid: thread.tid,
        thread_name: name.unwrap_or_default(),
        reason,
        function: range.map(function_name).unwrap_or_default(),
        timeout,
    }
}

fn function_name(range: &CodeRange) -> String {
    String::from_utf8_lossy(&range.name)
        .trim_end_matches('\0')
        .to_owned()
}
