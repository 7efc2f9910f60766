//! Redirecting threads that are about to execute the middle of the bytes that a site overwrites.
//!
//! A tiny function that many threads call always has some of them there. Such a thread has executed
//! a part of the old function's first instructions and needs the others. The trampoline has all of
//! them, each at the same distance from the first one, with the same call frame information. So the
//! thread is redirected: it continues in the trampoline, and comes from there into the rest of the
//! old function. It is still inside the old function, and stays in the old universe.
//!
//! Only its instruction pointer changes, in one step, so there is no state in between. (Single
//! steps would need the trap flag, which the kernel leaves set if the tracer dies: the next
//! instruction would end the program.) The thread executes the same instructions whether or not the
//! site is written, so nothing is wrong if the thread is resumed before the site is written because
//! the controller has died. But the trampoline must stay: from now on the agent keeps the image,
//! even if the patch is abandoned.
//!
//! A system call instruction may be among the first ones. The kernel restarts an interrupted call
//! two bytes before the instruction pointer; in the trampoline the same instruction is there.

use engraft_process::{StoppedProcess, TargetAddress};

use crate::error::Error;
use crate::session::Session;

/// Redirects threads into the trampolines of a patch: each continues at the address beside its
/// number.
pub(super) fn redirect(
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
        // A thread that is missing was killed.
        let Some(mut thread) = stopped.thread(*tid) else {
            continue;
        };
        let mut registers = *thread.registers();
        registers.rip = to.get();
        thread.set_registers(&registers)?;
        tracing::debug!(tid, %to, "redirected into a trampoline");
    }
    Ok(())
}
