//! The door: how a blocked thread switches by itself, and what the agent is told for that.
//!
//! The argument is in `docs/transition.md`; the door itself is in `engraft_core::door`.

use std::collections::HashMap;

use engraft_abi::{Command, ThreadRecord};
use engraft_process::{StackDoor, StoppedProcess, StoppedThread, TargetAddress};

use super::stack_check::BlockedThread;
use super::thread_list::ThreadList;
use crate::agent::snapshot::OpenTransition;
use crate::error::Error;
use crate::session::Session;

/// The records of blocked threads for the agent. `pointers` has the thread pointers of all threads.
/// Threads that share a thread pointer switch together, so they get no door: one of them would
/// switch the others.
pub(super) fn records(
    blocked: &[BlockedThread],
    pointers: &HashMap<i32, u64>,
) -> Vec<ThreadRecord> {
    let mut counts = HashMap::new();
    for pointer in pointers.values() {
        *counts.entry(*pointer).or_insert(0) += 1;
    }
    let is_alone = |pointer| pointer != 0 && counts.get(&pointer) == Some(&1);
    let records = blocked.iter().map(|thread| {
        let door = thread.door.as_ref().filter(|_| is_alone(thread.pointer));
        record(thread.pointer, door)
    });
    let mut records: Vec<ThreadRecord> = records.collect();
    // The agent takes those in order at once; any others cost it time while all threads are
    // stopped.
    records.sort_unstable_by_key(|record| record.pointer);
    records
}

/// The record of one thread.
fn record(pointer: u64, door: Option<&StackDoor>) -> ThreadRecord {
    let mut depths = [0; 4];
    let Some(door) = door else {
        return ThreadRecord {
            pointer,
            own_stack: [0; 2],
            low: 0,
            return_to: 0,
            depths,
        };
    };
    for (to, from) in depths.iter_mut().zip(&door.depths) {
        *to = from.get();
    }
    ThreadRecord {
        pointer,
        own_stack: match &door.own_stack {
            Some(stack) => [stack.start.get(), stack.end.get()],
            None => [0; 2],
        },
        low: door.low.get(),
        return_to: door.return_to.map_or(0, TargetAddress::get),
        depths,
    }
}

/// Tells the agent the door of a stopped thread that is blocked and that alone has its thread
/// pointer, unless the agent knows this door already. All other threads run on.
pub(super) fn set_door(
    session: &Session<'_>,
    open: &OpenTransition,
    thread: &mut StoppedThread<'_>,
    blocked: &BlockedThread,
    before: Option<&BlockedThread>,
) -> Result<(), Error> {
    // In a program that switches stacks, one stack of a thread does not show everything that the
    // thread is inside of.
    let door = new_door(open, blocked, before).filter(|_| !session.contexts.are_scanned());
    let Some(door) = door else {
        return Ok(());
    };
    let list = ThreadList::of_one(session);
    list.write(&[record(blocked.pointer, Some(door))])?;
    let arguments = [open.number, list.address.get()];
    let answer = session.agent.command(thread, Command::SetDoor, arguments);
    // If the agent is busy, it is told after the next check.
    let _ = session.note_unfinished(answer)?;
    Ok(())
}

/// The same while all threads are stopped, and no suspended context is inside.
pub(super) fn set_door_stopped(
    session: &Session<'_>,
    open: &OpenTransition,
    stopped: &mut StoppedProcess,
    blocked: &BlockedThread,
    before: Option<&BlockedThread>,
) -> Result<(), Error> {
    let Some(door) = new_door(open, blocked, before) else {
        return Ok(());
    };
    let list = ThreadList::of_one(session);
    list.write(&[record(blocked.pointer, Some(door))])?;
    let arguments = [open.number, list.address.get()];
    // If the agent is busy, it is told after the next check.
    let _ = session.command_stopped(stopped, Command::SetDoor, arguments)?;
    Ok(())
}

/// The door of a blocked thread, unless the agent knows it already.
fn new_door<'b>(
    open: &OpenTransition,
    blocked: &'b BlockedThread,
    before: Option<&BlockedThread>,
) -> Option<&'b StackDoor> {
    let is_known =
        open.has_door(blocked.pointer) && before.is_some_and(|before| before.door == blocked.door);
    blocked.door.as_ref().filter(|_| !is_known)
}
