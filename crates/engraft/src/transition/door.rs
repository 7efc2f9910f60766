//! Threads that stay behind and switch by themselves, at the door: what the agent is told of them, and how they are
//! seen to have switched without a stop.
//!
//! The argument is in `docs/transition.md`; the door itself is in `engraft_core::door`.

use std::collections::HashMap;

use engraft_abi::{BehindThread, Command, STATE_HAS_DOOR, SnapshotWaiting, range_kind};
use engraft_process::{Process, ReplacedCode, StackDoor, StoppedThread, TargetAddress};

use crate::agent::running::Plan;
use crate::agent::snapshot::OpenTransition;
use crate::error::Error;
use crate::session::Session;
use crate::transition::stack_check::{Finding, addresses};
use crate::transition::thread_list::ThreadList;

/// What a walk has to know of the code that a plan lists.
pub(crate) fn replaced_code(plan: &Plan) -> ReplacedCode {
    let of_kind = |kind| plan.ranges.iter().filter(move |range| range.kind == kind);
    let deciding: Vec<_> = of_kind(range_kind::DECIDES).copied().collect();
    ReplacedCode {
        ranges: addresses(&plan.ranges),
        deciding: addresses(&deciding),
        entries: of_kind(range_kind::ENTRY)
            .map(|range| {
                /// Size of the jump at a site.
                const SITE: usize = 5;
                let start = TargetAddress::new(range.start);
                let end = start + range.site + SITE as u64;
                let original = range.original.get(..SITE).unwrap_or_default();
                (start..end, original.to_vec())
            })
            .collect(),
    }
}

/// The list of threads for the agent. `pointers` are the thread pointers of all threads: one that several threads
/// share stands for all of them, and must not switch when one has left.
pub(crate) fn behind(findings: &[Finding], pointers: &HashMap<i32, u64>) -> Vec<BehindThread> {
    let mut counts = HashMap::new();
    for pointer in pointers.values() {
        *counts.entry(*pointer).or_insert(0) += 1;
    }
    findings
        .iter()
        .map(|finding| {
            let is_alone = finding.pointer != 0 && counts.get(&finding.pointer) == Some(&1);
            record(finding.pointer, finding.door.as_ref().filter(|_| is_alone))
        })
        .collect()
}

/// One thread in the form of the agent's.
fn record(pointer: u64, door: Option<&StackDoor>) -> BehindThread {
    let mut depths = [0; 4];
    let Some(door) = door else {
        return BehindThread {
            pointer,
            low: 0,
            return_to: 0,
            depths,
        };
    };
    for (to, from) in depths.iter_mut().zip(&door.depths) {
        *to = from.get();
    }
    BehindThread {
        pointer,
        low: door.low.get(),
        return_to: door.return_to.map_or(0, TargetAddress::get),
        depths,
    }
}

/// Tells the agent how a thread may switch by itself, which stands still and is inside, and is the only one with its
/// thread pointer. Not if it knows that already.
pub(crate) fn set_door(
    session: &Session<'_>,
    open: &OpenTransition,
    thread: &mut StoppedThread<'_>,
    finding: &Finding,
    before: Option<&Finding>,
) -> Result<(), Error> {
    let is_known =
        open.has_door(finding.pointer) && before.is_some_and(|before| before.door == finding.door);
    // In a program that switches stacks, a look at one of them does not show all.
    let may_set = !is_known && !session.contexts.are_looked_for();
    let Some(door) = finding.door.as_ref().filter(|_| may_set) else {
        return Ok(());
    };
    let list = ThreadList::of_one(session);
    list.write(&[record(finding.pointer, Some(door))])?;
    let arguments = [open.number, list.address.get()];
    let answer = session.agent.command(thread, Command::SetDoor, arguments);
    // If somebody else is at work in the agent, it is told at the next look.
    let _ = session.watch(answer)?;
    Ok(())
}

/// The words of threads that had yet to switch when the agent last carried out a command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StateWords {
    /// Address of the state of all other threads.
    pub(crate) others: u64,
    /// Thread pointers, and addresses of the threads' own states.
    pub(crate) threads: Vec<SnapshotWaiting>,
}

/// A thread that has yet to switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// Its thread pointer.
    pub(crate) pointer: u64,
    /// Whether it switches by itself as soon as it has left.
    pub(crate) has_door: bool,
}

impl StateWords {
    /// Those that still have. Nobody is stopped for that.
    pub(crate) fn waiting(&self, process: &Process) -> Result<Vec<Waiting>, Error> {
        let mut words = vec![[0_u8; 8]; self.threads.len() + 1];
        let threads = self.threads.iter().map(|thread| thread.state);
        let addresses = std::iter::once(self.others).chain(threads);
        let mut places: Vec<_> = addresses
            .zip(&mut words)
            .filter(|(address, _)| *address != 0)
            .map(|(address, word)| (TargetAddress::new(address), word.as_mut_slice()))
            .collect();
        process.memory().read_many(&mut places)?;
        let mut words = words.into_iter().map(u64::from_ne_bytes);
        let others = words.next().unwrap_or_default();
        let threads = self.threads.iter().zip(words);
        Ok(threads
            .filter(|(thread, word)| thread.state == 0 || *word != others)
            .map(|(thread, word)| Waiting {
                pointer: thread.thread,
                has_door: word & STATE_HAS_DOOR != 0,
            })
            .collect())
    }
}
