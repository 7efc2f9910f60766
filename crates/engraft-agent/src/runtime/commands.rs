//! Commands: remote calls of a controller.

#![expect(unsafe_code, reason = "takes over memory that the controller set up")]

use core::mem::offset_of;
use core::sync::atomic::Ordering;

use engraft_abi::{Command, Control, Outcome, ThreadRecord};
use engraft_core::{PatchId, ThreadId};
use zerocopy::TryFromBytes;

use crate::loader::broken;
use crate::model::agent::Agent;
use crate::patch::dispatch;
use crate::runtime::lock::{self, Guard};
use crate::system::code_writer::CodeWriter;
use crate::system::control::{Answer, ControlBlock};
use crate::system::failure::Failure;
use crate::system::memory::{bytes, read};
use crate::system::{self, random};

/// Carries out a command; the [`Outcome`] as a number. Further details are in the control block,
/// whose address is `control`.
///
/// It runs in a thread of the target that the controller has borrowed, on the agent's own stack,
/// with all signals blocked. It never waits.
///
/// # Safety
/// `control` is the address of a complete [`engraft_abi::Control`], the same in every call; the
/// arguments are what [`Command`] says; `entry_stack` is where the return address of this call is.
pub unsafe extern "C" fn remote_command(
    command: u64,
    control: u64,
    first: u64,
    second: u64,
    entry_stack: u64,
    process: u64,
) -> u64 {
    let Some(mut guard) = Guard::try_acquire_as(process, entry_stack, None, false) else {
        return Outcome::Busy as u64;
    };
    // SAFETY: the caller's promise.
    let control = unsafe { ControlBlock::at(control) };
    control.note_work();
    if control.is_filtered() {
        system::set_filtered();
    }
    let Ok(command) = Command::try_read_from_bytes(&command.to_ne_bytes()) else {
        return control.respond(Err(Failure::bad_payload())) as u64;
    };
    // SAFETY: the caller's promise.
    let Some(agent) = (unsafe { installed(&mut guard, control) }) else {
        return control.respond_broken() as u64;
    };
    agent.host.writer = CodeWriter::Controller(control);
    if agent.forget_lapsed() {
        agent.modules_changed();
    }
    // SAFETY: the caller's promise.
    let answer = unsafe { carry_out(agent, command, first, second) };
    agent.respond(answer) as u64
}

/// The agent, which the first command makes; `None` if it is broken.
///
/// # Safety
/// As for [`remote_command`].
unsafe fn installed(guard: &mut Guard, control: ControlBlock) -> Option<&mut Agent> {
    if guard.is_broken() {
        return None;
    }
    if guard.agent().is_none() {
        #[cfg(feature = "freestanding")]
        let Control {
            heap_start,
            heap_length,
            ..
        } = control.read();
        #[cfg(feature = "freestanding")]
        // SAFETY: the first command; this memory was mapped by the controller for nothing else.
        unsafe {
            crate::runtime::heap::initialise(heap_start, heap_length);
        }
        random::stir(control.random());
        // ORDERING: read by threads in stubs, which are written later.
        dispatch::HAS_FSGSBASE.store(control.has_fsgsbase(), Ordering::Relaxed);
        control.store(offset_of!(Control, holder), lock::holder_address());
        broken::begin(control.address());
        guard.install(Agent::new(control));
    }
    guard.agent()
}

/// # Safety
/// As for [`remote_command`].
// Not inlined: a test makes it panic.
#[inline(never)]
unsafe fn carry_out(agent: &mut Agent, command: Command, first: u64, second: u64) -> Answer {
    let patch = PatchId(first as u32);
    match command {
        // SAFETY: the controller wrote the list there.
        Command::Attach => agent.attach(unsafe { bytes(first, second as usize) }),
        Command::Allocate => Ok((Outcome::Done, agent.host.payloads.lend(first)?)),
        Command::Free => {
            let freed = agent.host.payloads.free_lent(first, second);
            freed.map(|()| (Outcome::Done, 0))
        }
        Command::Prepare => agent.prepare(first, second),
        // SAFETY: the controller wrote the list there.
        Command::Enable => agent.enable(patch, unsafe { threads(second) }),
        Command::Abandon => agent.abandon(patch),
        Command::Plan => agent.plan(patch, second != 0),
        Command::Reclaim => {
            let reclaimed = agent.host.payloads.free_all_lent();
            reclaimed.map(|()| (Outcome::Done, 0))
        }
        Command::ForgetUnmapped => agent.forget_unmapped().map(|()| (Outcome::Done, 0)),
        // SAFETY: the controller wrote the list there.
        Command::Disable => agent.disable(patch, unsafe { threads(second) }),
        // SAFETY: the controller wrote the list there.
        Command::Start => agent.start(patch, unsafe { threads(second) }),
        // SAFETY: the controller wrote the list there.
        Command::Reverse => agent.reverse(patch, unsafe { threads(second) }),
        // SAFETY: the controller wrote the list there.
        Command::SetDoor => agent.set_door(patch, unsafe { threads(second) }),
        Command::Switch => agent.switch(patch, ThreadId(second)),
        Command::ThreadExited => agent.thread_exited(patch, ThreadId(second)),
        Command::Complete => agent.complete(patch),
        Command::Force => agent.force(patch),
        Command::Detach => agent.leave(),
        Command::PrepareAgain => agent.prepare_again(patch),
        Command::PlanRemoval => agent.plan_removal(patch),
        Command::Remove => agent.remove(patch),
    }
}

/// A list of threads.
///
/// # Safety
/// The controller wrote one to `address`, 8-byte aligned, and leaves it there during the command.
unsafe fn threads<'a>(address: u64) -> &'a [ThreadRecord] {
    // SAFETY: the caller's promise.
    let count = unsafe { read::<u64>(address) } as usize;
    let first = address as usize + size_of::<u64>();
    let first = core::ptr::with_exposed_provenance::<ThreadRecord>(first);
    // SAFETY: `count` records follow, made of words.
    unsafe { core::slice::from_raw_parts(first, count) }
}
