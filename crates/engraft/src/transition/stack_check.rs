//! Checking stacks: is a stopped thread clear of the code that a change is about to leave?

use std::ops::Range;
use std::time::Duration;

use engraft_abi::{CodeRange, Command};
use engraft_process::{
    ExtraUnwindTable, Maps, Process, ReplacedCode, StackDoor, StackScan, StackWalk, StoppedProcess,
    TargetAddress, ThreadState, Unreliable, Verdict, WalkContext,
};

use crate::agent::plan::{Plan, addresses, function_name, range_named};
use crate::agent::snapshot::{ImageStatus, Snapshot};
use crate::error::{BlockReason, Error};
use crate::session::Session;

/// Everything that checking stacks needs and that can be prepared while the process runs.
///
/// The conservative scan costs microseconds and is enough for most threads. Only the stack of a
/// thread that the scan does not find clear is walked precisely, and only for such a thread is a
/// door looked for.
pub(super) struct CheckPlan<'p> {
    process: &'p Process,
    maps: Maps,
    plan: Plan,
    context: WalkContext,
}

impl<'p> CheckPlan<'p> {
    /// Asks the agent what must be clear for a change of this patch.
    pub(super) fn ask(session: &Session<'p>, number: u64, to_patched: bool) -> Result<Self, Error> {
        let process = session.process;
        session.contexts.prepare(process)?;
        // The last stop may have woken every sleeping thread.
        process.watch_sleepers();
        let planned = session.command(Command::Plan, [number, to_patched.into()])?;
        planned.done(session.pid())?;
        let snapshot = Snapshot::read(&session.agent)?;
        let plan = session.agent.plan()?;
        Ok(Self {
            process,
            maps: process.maps()?,
            plan,
            // A function of any patch may be on a stack.
            context: walk_context(process, snapshot.images(None))?,
        })
    }

    /// A checker for this plan.
    pub(super) fn checker(&self) -> StackChecker<'_> {
        let sites = addresses(&self.plan.sites);
        StackChecker {
            ranges: StackScan::new(self.process, &self.maps, &addresses(&self.plan.ranges)),
            sites: StackScan::of_bytes(self.process, &self.maps, &sites),
            walk: StackWalk::new(self.process, &self.maps, &self.context),
            replaced: self.plan.replaced_code(),
            plan: &self.plan,
        }
    }
}

/// A thread that is not clear.
#[derive(Debug, Clone)]
pub(super) struct BlockedThread {
    pub(super) tid: i32,
    /// The thread pointer, by which the agent tells threads apart.
    pub(super) pointer: u64,
    /// Stack pointer and instruction pointer.
    pub(super) place: (TargetAddress, TargetAddress),
    pub(super) reason: BlockReason,
    /// The function that the thread is inside of.
    pub(super) function: String,
    /// Where the thread executes, or where on its stack the return address is, in words.
    pub(super) frame: Option<String>,
    /// Where the thread may switch by itself, if its stack shows that.
    pub(super) door: Option<StackDoor>,
}

impl BlockedThread {
    /// The thread, blocked for this reason.
    pub(super) fn new(
        thread: &ThreadState,
        reason: BlockReason,
        function: String,
        frame: Option<String>,
    ) -> Self {
        let registers = &thread.registers;
        Self {
            tid: thread.tid,
            pointer: registers.thread_pointer().get(),
            place: (registers.stack_pointer(), registers.instruction_pointer()),
            reason,
            function,
            frame,
            door: None,
        }
    }

    /// What the verdict on a thread means for these ranges; `None` if the thread is clear.
    fn from_verdict(thread: &ThreadState, verdict: Verdict, ranges: &[CodeRange]) -> Option<Self> {
        let (reason, start, frame) = match verdict {
            Verdict::Clear => return None,
            Verdict::Running {
                range,
                instruction_pointer,
            } => {
                let frame = format!("at {instruction_pointer}");
                (BlockReason::Running, Some(range.start), frame)
            }
            Verdict::Sleeping {
                range, at, value, ..
            } => {
                let frame = format!("return to {value} on the stack at {at}");
                (BlockReason::Sleeping, Some(range.start), frame)
            }
            Verdict::Unreliable(reason) => (BlockReason::Unreliable, None, reason.to_string()),
        };
        let start = start.map(TargetAddress::get);
        let range = ranges
            .iter()
            .find(|range| start.is_none_or(|start| range.start == start));
        let function = range.map(function_name).unwrap_or_default();
        Some(Self::new(thread, reason, function, Some(frame)))
    }

    /// The error that the thread was not clear at any of so many checks.
    pub(super) fn into_error(self, process: &Process, looks: usize, timeout: Duration) -> Error {
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

/// Checks the stacks of stopped threads against a [`CheckPlan`].
pub(super) struct StackChecker<'p> {
    ranges: StackScan<'p>,
    sites: StackScan<'p>,
    walk: StackWalk<'p>,
    replaced: ReplacedCode,
    plan: &'p Plan,
}

impl StackChecker<'_> {
    /// The generation of the plan. If the agent's is another one by now, a thread that is clear by
    /// this plan may be inside of something else.
    pub(super) fn generation(&self) -> u64 {
        self.plan.generation
    }

    /// The code that no thread may be inside of.
    pub(super) fn ranges(&self) -> &[CodeRange] {
        &self.plan.ranges
    }

    /// Checks one thread; `None` if it is clear.
    pub(super) fn check(&self, thread: &ThreadState) -> Option<BlockedThread> {
        if self.plan.ranges.is_empty() {
            // Every thread is clear of no code, even one whose stack cannot be read.
            return None;
        }
        let verdict = check(&self.ranges, Some(&self.walk), thread);
        let blocked = BlockedThread::from_verdict(thread, verdict, &self.plan.ranges)?;
        Some(BlockedThread {
            door: self.walk.door(thread, &self.replaced, &self.ranges),
            ..blocked
        })
    }

    /// If the thread is about to execute the middle of bytes that will be overwritten: where the
    /// same instructions are in the trampoline.
    pub(super) fn redirect_target(&self, thread: &ThreadState) -> Option<TargetAddress> {
        if thread.is_kernel_worker {
            return None;
        }
        let at = thread.registers.instruction_pointer().get();
        let inside = |site: &&CodeRange| site.start < at && at < site.end && site.moved != 0;
        let site = self.plan.sites.iter().find(inside)?;
        Some(TargetAddress::new(site.moved + (at - site.start)))
    }

    /// Whether a thread that is not clear may return into the middle of bytes that will be
    /// overwritten. A thread on a foreign stack has no such return address on that stack; its other
    /// stacks are not seen here, as in every check.
    pub(super) fn may_return_into_site(&self, thread: &ThreadState) -> bool {
        if self.plan.sites.is_empty() {
            return false;
        }
        match check(&self.sites, Some(&self.walk), thread) {
            Verdict::Clear | Verdict::Unreliable(Unreliable::ForeignStack { .. }) => false,
            Verdict::Running { .. } | Verdict::Sleeping { .. } | Verdict::Unreliable(_) => true,
        }
    }
}

/// Checks one thread: by a scan, and precisely if a walk is prepared and the scan does not find the
/// thread clear.
pub(super) fn check(
    scan: &StackScan<'_>,
    walk: Option<&StackWalk<'_>>,
    thread: &ThreadState,
) -> Verdict {
    match walk {
        Some(walk) => scan.check_precisely(thread, walk),
        None => scan.check(thread),
    }
}

/// Everything that walking stacks needs: the unwind tables of the modules, and those of these
/// images.
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

/// Checks that all threads are clear of this code, for a change that needs that at once. With a
/// `context`, stacks are walked precisely.
///
/// # Errors
/// [`Error::ThreadInside`] if a thread is not clear.
pub(crate) fn expect_clear(
    stopped: &StoppedProcess,
    maps: &Maps,
    code: Range<TargetAddress>,
    name: &str,
    context: Option<&WalkContext>,
) -> Result<(), Error> {
    let process = stopped.process();
    let ranges = [range_named(code, name)];
    let scan = StackScan::new(process, maps, &addresses(&ranges));
    let walk = context.map(|context| StackWalk::new(process, maps, context));
    let blocked = stopped.threads().find_map(|thread| {
        let verdict = check(&scan, walk.as_ref(), &thread);
        BlockedThread::from_verdict(&thread, verdict, &ranges)
    });
    match blocked {
        Some(blocked) => Err(blocked.into_error(process, 1, Duration::ZERO)),
        None => Ok(()),
    }
}
