//! Remote calls: what a controller asks for.

#![expect(unsafe_code, reason = "takes over memory that the controller set up")]

#[cfg(feature = "freestanding")]
use engraft_abi::Control;
use engraft_abi::{Command, Outcome};
use engraft_core::PatchId;
use zerocopy::TryFromBytes;

use crate::agent::Agent;
use crate::control::{Answer, ControlBlock};
use crate::failure::Failure;
use crate::lock::Guard;
use crate::memory::bytes;
use crate::{payloads, system};

/// Carries out a command; the [`Outcome`] as a number. Further details are in the control block, whose
/// address is `control`.
///
/// Runs in a thread of the target that the controller has borrowed, on the agent's own stack, with all
/// signals blocked. It never waits.
///
/// # Safety
/// `control` is the address of a complete [`engraft_abi::Control`], the same in every call; the arguments are what
/// [`Command`] says; `entry_stack` is where the return address of this call is.
pub unsafe extern "C" fn remote_command(
    command: u64,
    control: u64,
    first: u64,
    second: u64,
    entry_stack: u64,
) -> u64 {
    let Some(mut guard) = Guard::try_acquire(entry_stack, None, false) else {
        return Outcome::Busy as u64;
    };
    // SAFETY: the caller's promise.
    let control = unsafe { ControlBlock::at(control) };
    if control.is_filtered() {
        system::set_filtered();
    }
    let Ok(command) = Command::try_read_from_bytes(&command.to_ne_bytes()) else {
        return control.respond(Err(Failure::bad_payload())) as u64;
    };
    if command == Command::Attach {
        // SAFETY: the caller's promise.
        return unsafe { attach(&mut guard, control) } as u64;
    }
    let Some(agent) = guard.agent() else {
        return Outcome::Broken as u64;
    };
    agent.host.writes.clear();
    // SAFETY: the caller's promise.
    let answer = unsafe { carry_out(agent, command, first, second) };
    agent.respond(answer) as u64
}

/// # Safety
/// As for [`remote_command`].
unsafe fn attach(guard: &mut Guard, control: ControlBlock) -> Outcome {
    if guard.is_broken() {
        return Outcome::Broken;
    }
    let agent = match guard.agent() {
        Some(agent) => agent,
        None => {
            #[cfg(feature = "freestanding")]
            let Control {
                heap_start,
                heap_length,
                ..
            } = control.read();
            #[cfg(feature = "freestanding")]
            // SAFETY: the first command; this memory was mapped by the controller for nothing else.
            unsafe {
                crate::runtime::initialise_heap(heap_start, heap_length);
            }
            guard.install(Agent::new(control))
        }
    };
    let attached = agent.attach();
    agent.respond(attached)
}

/// # Safety
/// As for [`remote_command`].
unsafe fn carry_out(agent: &mut Agent, command: Command, first: u64, second: u64) -> Answer {
    let patch = PatchId(first as u32);
    match command {
        Command::Attach => agent.attach(),
        Command::Allocate => Ok((Outcome::Done, payloads::allocate(first)?)),
        // SAFETY: the controller gives back what it got from Allocate and never handed over.
        Command::Free => unsafe { payloads::free(first, second) }.map(|()| (Outcome::Done, 0)),
        Command::Prepare => agent.prepare(first, second),
        Command::Enable => agent.enable(patch),
        Command::Abandon => agent.abandon(patch),
        // SAFETY: the controller wrote the name there.
        Command::Find => agent.find(unsafe { bytes(first, second as usize) }),
        Command::Plan => agent.plan(patch, second != 0),
        Command::Settle => agent.settle().map(|()| (Outcome::Done, 0)),
        Command::Disable => agent.disable(patch),
        Command::Detach => agent.detach(),
        // SAFETY: the controller wrote the name there.
        Command::FindDisabled => agent.find_disabled(unsafe { bytes(first, second as usize) }),
        Command::PrepareAgain => agent.prepare_again(patch),
        Command::PlanRemoval => agent.plan_removal(patch),
        Command::Remove => agent.remove(patch),
    }
}
