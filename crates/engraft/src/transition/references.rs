//! References of stopped threads to the memory of a patch that is to be removed.

use std::ops::Range;

use engraft_process::{
    Maps, StackScan, StackWalk, StoppedProcess, TargetAddress, ThreadState, Verdict, WalkContext,
};

use super::stack_check::check;
use crate::agent::plan::{Plan, addresses};
use crate::error::{Error, Reference};

/// The first thread whose stack or registers hold an address in the memory that the plan lists: its
/// `ranges` are data, its `sites` are code. With a `context`, stacks are walked precisely.
pub(crate) fn first_reference(
    stopped: &mut StoppedProcess,
    maps: &Maps,
    plan: &Plan,
    context: Option<&WalkContext>,
) -> Result<Option<(i32, Reference)>, Error> {
    let process = stopped.process().clone();
    let scan = ReferenceScan {
        data: StackScan::new(&process, maps, &addresses(&plan.ranges)),
        code: StackScan::new(&process, maps, &addresses(&plan.sites)),
        walk: context.map(|context| StackWalk::new(&process, maps, context)),
        ranges: addresses(&[plan.ranges.as_slice(), &plan.sites].concat()),
    };
    if scan.ranges.is_empty() {
        return Ok(None);
    }
    let threads: Vec<_> = stopped.threads().collect();
    for thread in threads.iter().filter(|thread| !thread.is_kernel_worker) {
        let tid = thread.tid;
        if let Some(reference) = scan.on_stack_or_in_general_register(thread) {
            return Ok(Some((tid, reference)));
        }
        // A vector register may hold an address that is being copied.
        let state = stopped.thread(tid).map(|thread| thread.extended_state());
        let state = state.transpose()?.unwrap_or_default();
        if let Some(reference) = scan.in_extended_state(&state) {
            return Ok(Some((tid, reference)));
        }
    }
    Ok(None)
}

/// What references are looked for, and how.
struct ReferenceScan<'s> {
    /// Constants and variables: any word that could be an address counts.
    data: StackScan<'s>,
    /// Code: only a return address counts. (The address of a function may be anywhere in memory;
    /// the agent does not plan to remove an image that has such functions.)
    code: StackScan<'s>,
    walk: Option<StackWalk<'s>>,
    ranges: Vec<Range<TargetAddress>>,
}

impl ReferenceScan<'_> {
    fn on_stack_or_in_general_register(&self, thread: &ThreadState) -> Option<Reference> {
        let code = check(&self.code, self.walk.as_ref(), thread);
        let on_stack = reference(self.data.check(thread)).or_else(|| reference(code));
        let registers = thread.registers.general();
        on_stack.or_else(|| registers.into_iter().find_map(|value| self.register(value)))
    }

    fn in_extended_state(&self, state: &[u8]) -> Option<Reference> {
        let words = state.chunks_exact(8).filter_map(<[u8]>::first_chunk::<8>);
        let mut values = words.map(|word| u64::from_ne_bytes(*word));
        values.find_map(|value| self.register(value))
    }

    /// A reference, if the value of a register is one.
    fn register(&self, value: u64) -> Option<Reference> {
        let value = TargetAddress::new(value);
        let is_inside = self.ranges.iter().any(|range| range.contains(&value));
        is_inside.then_some(Reference::Register { value })
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
