//! Looking at threads: is it certain that they are clear of code that is about to be left?

use std::ops::Range;
use std::time::Duration;

use engraft_abi::{CodeRange, Command};
use engraft_process::foreign::escape_bytes;
use engraft_process::{
    ExtraUnwindTable, Maps, Process, ReplacedCode, StackDoor, StackScan, StackWalk, TargetAddress,
    ThreadState, Unreliable, Verdict, WalkContext,
};

use crate::agent::running::Plan;
use crate::agent::snapshot::{ImageStatus, Snapshot};
use crate::error::Error;
use crate::error::in_the_way::Inside;
use crate::session::Session;
use crate::transition::door::replaced_code;

/// What is prepared, while everybody runs, for looking at threads that stand still.
///
/// The conservative scan costs microseconds and is enough for most threads. Only when one is in the way is it
/// worth to find out how to walk stacks precisely.
pub(crate) struct Look<'p> {
    process: &'p Process,
    maps: Maps,
    plan: Plan,
    context: Option<WalkContext>,
}

/// A thread that is not clear.
#[derive(Debug, Clone)]
pub(crate) struct Finding {
    pub(crate) tid: i32,
    /// The thread pointer, by which the agent tells threads apart.
    pub(crate) pointer: u64,
    /// Stack pointer and instruction pointer.
    pub(crate) place: (TargetAddress, TargetAddress),
    pub(crate) reason: Inside,
    /// What it is inside of.
    pub(crate) function: String,
    /// Where it executes, or where on its stack is what returns there, in words.
    pub(crate) frame: Option<String>,
    /// Where it may switch by itself, if that is known of its stack.
    pub(crate) door: Option<StackDoor>,
}

impl<'p> Look<'p> {
    /// A look for what a plan says. `images` are those of all patches, whose functions may be on stacks.
    pub(crate) fn prepare<'i>(
        process: &'p Process,
        plan: Plan,
        precise: bool,
        images: impl Iterator<Item = &'i ImageStatus>,
    ) -> Result<Self, Error> {
        Ok(Self {
            process,
            maps: process.maps()?,
            plan,
            context: match precise {
                true => Some(walk_context(process, images)?),
                false => None,
            },
        })
    }

    /// What looks.
    pub(crate) fn eyes(&self) -> Eyes<'_> {
        let scan =
            |ranges: &[CodeRange]| StackScan::new(self.process, &self.maps, &addresses(ranges));
        let sites = addresses(&self.plan.sites);
        let walk = |context| StackWalk::new(self.process, &self.maps, context);
        Eyes {
            scan: scan(&self.plan.ranges),
            sites: StackScan::of_bytes(self.process, &self.maps, &sites),
            walk: self.context.as_ref().map(walk),
            replaced: replaced_code(&self.plan),
            plan: &self.plan,
        }
    }
}

/// A [`Look`] at work.
pub(crate) struct Eyes<'l> {
    scan: StackScan<'l>,
    sites: StackScan<'l>,
    walk: Option<StackWalk<'l>>,
    replaced: ReplacedCode,
    plan: &'l Plan,
}

impl Eyes<'_> {
    /// Of the plan. If it is another one by now, a thread that is clear of what the plan says may be inside of
    /// something else.
    pub(crate) fn generation(&self) -> u64 {
        self.plan.generation
    }

    /// What no thread may be inside of.
    pub(crate) fn ranges(&self) -> &[CodeRange] {
        &self.plan.ranges
    }

    /// Looks at one thread; `None` if it is clear.
    pub(crate) fn finding(&self, thread: &ThreadState) -> Option<Finding> {
        if self.plan.ranges.is_empty() {
            // There is nothing to be inside of, whatever its stack looks like.
            return None;
        }
        let verdict = self.check(&self.scan, thread);
        let found = finding(thread, verdict, &self.plan.ranges)?;
        let walk = self.walk.as_ref();
        Some(Finding {
            door: walk.and_then(|walk| walk.door(thread, &self.replaced)),
            ..found
        })
    }

    /// Where a thread finds the instructions that it is about to execute, if these are in the middle of what will be
    /// overwritten.
    pub(crate) fn way_out(&self, thread: &ThreadState) -> Option<TargetAddress> {
        if thread.is_kernel_worker {
            return None;
        }
        let at = thread.registers.instruction_pointer().get();
        let inside = |site: &&CodeRange| site.start < at && at < site.end && site.moved != 0;
        let site = self.plan.sites.iter().find(inside)?;
        Some(TargetAddress::new(site.moved + (at - site.start)))
    }

    /// Whether a thread that is not clear may return into the middle of what will be overwritten. A thread on a stack
    /// that is not its own has no such address on this one; what else it has is unknown here as everywhere.
    pub(crate) fn may_return_into_site(&self, thread: &ThreadState) -> bool {
        if self.plan.sites.is_empty() {
            return false;
        }
        match self.check(&self.sites, thread) {
            Verdict::Clear | Verdict::Unreliable(Unreliable::ForeignStack { .. }) => false,
            Verdict::Running { .. } | Verdict::Sleeping { .. } | Verdict::Unreliable(_) => true,
        }
    }

    fn check(&self, scan: &StackScan<'_>, thread: &ThreadState) -> Verdict {
        check(scan, self.walk.as_ref(), thread)
    }
}

/// Looks at one thread, precisely where that is prepared.
pub(crate) fn check(
    scan: &StackScan<'_>,
    walk: Option<&StackWalk<'_>>,
    thread: &ThreadState,
) -> Verdict {
    match walk {
        Some(walk) => scan.check_precisely(thread, walk),
        None => scan.check(thread),
    }
}

/// What a verdict means, in terms of the ranges that were looked for; `None` if the thread is clear.
fn finding(thread: &ThreadState, verdict: Verdict, ranges: &[CodeRange]) -> Option<Finding> {
    let (reason, start, frame) = match verdict {
        Verdict::Clear => return None,
        Verdict::Running {
            range,
            instruction_pointer,
        } => {
            let frame = format!("at {instruction_pointer}");
            (Inside::Running, Some(range.start), Some(frame))
        }
        Verdict::Sleeping {
            range, at, value, ..
        } => {
            let frame = format!("return to {value} on the stack at {at}");
            (Inside::Sleeping, Some(range.start), Some(frame))
        }
        Verdict::Unreliable(reason) => (Inside::Unreliable, None, Some(reason.to_string())),
    };
    let start = start.map(TargetAddress::get);
    let range = ranges
        .iter()
        .find(|range| start.is_none_or(|start| range.start == start));
    Some(Finding {
        tid: thread.tid,
        pointer: thread.registers.thread_pointer().get(),
        place: (
            thread.registers.stack_pointer(),
            thread.registers.instruction_pointer(),
        ),
        reason,
        function: range.map(function_name).unwrap_or_default(),
        frame,
        door: None,
    })
}

/// What is known of all code for walking stacks, that of patches included.
pub(crate) fn walk_context<'i>(
    process: &Process,
    images: impl Iterator<Item = &'i ImageStatus>,
) -> Result<WalkContext, Error> {
    let mut context = WalkContext::prepare(process)?;
    for image in images {
        if let Some(eh_frame) = image.unwind.clone() {
            context.add(ExtraUnwindTable {
                code: image.code.clone(),
                eh_frame,
            });
        }
    }
    Ok(context)
}

/// The first thread that is not clear of one range, for those who want nothing but clear threads.
pub(crate) fn first_not_clear(
    process: &Process,
    maps: &Maps,
    mut threads: impl Iterator<Item = ThreadState>,
    range: CodeRange,
    context: Option<&WalkContext>,
) -> Option<Finding> {
    let ranges = [range];
    let scan = StackScan::new(process, maps, &addresses(&ranges));
    let walk = context.map(|context| StackWalk::new(process, maps, context));
    threads.find_map(|thread| {
        let verdict = check(&scan, walk.as_ref(), &thread);
        finding(&thread, verdict, &ranges)
    })
}

/// Ranges of the agent's as addresses of the target.
pub(crate) fn addresses(ranges: &[CodeRange]) -> Vec<Range<TargetAddress>> {
    let addresses = |range: &CodeRange| range.start.into()..range.end.into();
    ranges.iter().map(addresses).collect()
}

pub(crate) fn function_name(range: &CodeRange) -> String {
    let name = range.name.split(|byte| *byte == 0).next();
    escape_bytes(name.unwrap_or_default())
}

/// Has the agent say what must be clear, and prepares to look for it.
pub(crate) fn prepare_look<'p>(
    session: &Session<'p>,
    number: u64,
    to_patched: bool,
    precise: bool,
) -> Result<Look<'p>, Error> {
    session.contexts.prepare(session.process)?;
    // Since the last time, a stop of ours may have woken everybody.
    session.process.watch_sleepers();
    let planned = session.command(Command::Plan, [number, to_patched.into()])?;
    planned.done(session.pid())?;
    let snapshot = Snapshot::read(&session.agent)?;
    Look::prepare(
        session.process,
        session.agent.plan()?,
        precise,
        snapshot.images(None),
    )
}

impl Finding {
    /// The thread is in the way for too long.
    pub(crate) fn inside(self, process: &Process, looks: usize, timeout: Duration) -> Error {
        Error::ThreadInside {
            pid: process.pid(),
            thread_name: process.task(self.tid).name().unwrap_or_default(),
            tid: self.tid,
            reason: self.reason,
            function: self.function,
            frame: self.frame,
            looks,
            timeout,
        }
    }
}
