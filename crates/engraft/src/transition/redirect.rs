//! Threads that stand in the middle of the bytes that a site overwrites.
//!
//! A tiny function that many threads call always has some of them there. They have executed a part of the old
//! function's first instructions and need the others. The trampoline has all of them, each as far from the first one as
//! it was, with the same call frame information; so such a thread goes on there, and comes from there into the rest of
//! the old function. It is inside the old function as it was before, and stays in the old universe.
//!
//! Its instruction pointer is all that changes, in one step, so there is no state in between. (Single steps would
//! need the trap flag, which the kernel leaves set if the tracer dies: the next instruction would end the
//! program.) What the thread executes is the same wherever the site leads, so it may be let go before the site is
//! written, by whatever accident. But it must find the trampoline then: the agent keeps the image from now on, even
//! if the patch is given up.
//!
//! A system call instruction may be among the first ones. The kernel restarts an interrupted call two bytes before the
//! instruction pointer; in the trampoline the same instruction is there.

use engraft_process::{StoppedProcess, TargetAddress};

use crate::error::Error;
use crate::session::Session;

/// Leads threads into the trampolines of a patch: each goes on at the address beside its number.
pub(crate) fn lead_out(
    session: &Session<'_>,
    stopped: &mut StoppedProcess,
    patch: u64,
    threads: &[(i32, TargetAddress)],
) -> Result<(), Error> {
    if threads.is_empty() {
        return Ok(());
    }
    session.agent.keep_images(patch)?;
    for (tid, to) in threads {
        // One that is not there any more was killed.
        let Some(mut thread) = stopped.thread(*tid) else {
            continue;
        };
        let mut registers = *thread.registers();
        registers.rip = to.get();
        thread.set_registers(&registers)?;
        tracing::debug!(tid, %to, "led out of a site");
    }
    Ok(())
}
