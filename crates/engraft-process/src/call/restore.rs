//! Restoring a thread: from any stop of a remote call to the stop in which the thread was before.
//!
//! A thread that is stopped at the entry of a system call executes that call as soon as we are
//! gone: when a tracer is killed, the kernel resumes its threads, and puts their seccomp filters in
//! force again in the same moment. So the call at the entry must at every instant be one that the
//! program's filter allows, and that leads the thread back by itself. The number -1, which would
//! skip the call, is no such call: a filter sees that number, too, and one that allows a list of
//! calls kills for it.
//!
//! | in the saved registers | the thread executes | because |
//! |---|---|---|
//! | a call whose rest only the kernel knows | `restart_syscall` | The stop itself turns the call into this one, so the filter allows it if the program survives any stop. `rt_sigreturn` would make the kernel forget the rest. |
//! | anything else | `rt_sigreturn` from the call's frame | The thread does so if we die. |
//!
//! A request for a stop is pending all the time, so neither call takes long, and no instruction of
//! the program is executed. A resumed call may end there all the same, because what it waits for
//! has happened: then its result is the thread's.

use crate::call::call_thread::{CallThread, Result};
use crate::call::remote_call_error::RemoteCallError;
use crate::call::requests::RequestHandler;
use crate::sys::ptrace::{self, Resume};
use crate::sys::registers::Registers;
use crate::sys::restart::{has_restart_block, restart_ready, resumed_in_place};
use crate::sys::wait::Event;
use crate::trace::patience::PROCESSOR_WITHIN;
use crate::trace::traced_threads::Condition;

impl CallThread<'_> {
    /// Restores the thread. After a failure everything is tried once more: a thread whose call is
    /// half undone is the worst result of all.
    pub(super) fn restore(&mut self) -> Result<()> {
        match self.try_to_restore() {
            Err(error @ RemoteCallError::System { .. }) => {
                tracing::debug!(%error, "restoring a thread once more");
                self.try_to_restore()
            }
            restored => restored,
        }
    }

    fn try_to_restore(&mut self) -> Result<()> {
        // The general registers last: with them the thread leaves the call, and can no longer
        // restore itself from the frame.
        let saved = &self.state.saved;
        let state = ptrace::set_extended_state(self.tid, &saved.extended_state);
        self.check("restore the extended state of", state)?;
        let mask = ptrace::set_signal_mask(self.tid, saved.signal_mask);
        self.check("restore the signal mask of", mask)?;
        self.leave_call()?;
        self.reach_ordinary_stop()?;
        // Not before: until here the filter would have seen our system calls.
        self.resume_filter()
    }

    /// Sets the registers with which the thread leaves the call, from whatever stop it is in.
    fn leave_call(&self) -> Result<()> {
        let saved = &self.state.saved.general;
        let now = self.check("read the registers of", ptrace::registers(self.tid))?;
        let ready = if !ptrace::is_at_system_call_entry(self.tid, &now) {
            restart_ready(saved)
        } else if has_restart_block(saved) {
            resumed_in_place(saved)
        } else if let Some(stack) = self.state.frame_at_return {
            Registers {
                orig_rax: libc::SYS_rt_sigreturn as u64,
                rsp: stack.get(),
                ..now
            }
        } else {
            // A system call on the stack of a program in which there was no room for a frame.
            restart_ready(saved)
        };
        if ready == now {
            return Ok(());
        }
        let set = ptrace::set_registers(self.tid, &ready);
        self.check("restore the registers of", set)
    }

    /// Leads the thread from any stop to one after which the kernel's restart logic is still to
    /// come. No instruction is executed in between: a request made during a stop is answered by
    /// another stop, before user mode and before any signal.
    fn reach_ordinary_stop(&mut self) -> Result<()> {
        self.check("interrupt", ptrace::interrupt(self.tid))?;
        self.continue_once()?;
        let deadline = self.process().patience(PROCESSOR_WITHIN);
        let mut handler = RequestHandler::of(None);
        loop {
            let event = self.await_event(&deadline, &mut handler)?;
            match event.ok_or_else(|| self.timed_out(&deadline))? {
                Event::Stop { group } => return self.restore_general_registers(group),
                Event::Ended => return Err(self.ended()),
                _ => self.continue_once()?,
            }
        }
    }

    fn continue_once(&self) -> Result<()> {
        let resumed = ptrace::resume(self.tid, Resume::Continue, 0);
        self.check("continue", resumed)
    }

    /// The thread is in an ordinary stop, and gets its registers back.
    fn restore_general_registers(&mut self, group: bool) -> Result<()> {
        let now = self.check("read the registers of", ptrace::registers(self.tid))?;
        let mut registers = self.state.saved.general;
        if has_ended_in_place(&registers, &now) {
            registers = now;
        } else {
            let original = ptrace::set_registers(self.tid, &registers);
            self.check("restore the registers of", original)?;
        }
        let threads = self.tracees.threads_mut();
        threads.set_condition(self.tid, Condition::Stopped { group });
        threads.set_registers(self.tid, &registers);
        Ok(())
    }
}

/// Whether a call that was resumed where the thread stood has ended, and so has a result.
fn has_ended_in_place(before: &Registers, now: &Registers) -> bool {
    let returned = Registers {
        rax: now.rax,
        ..resumed_in_place(before)
    };
    has_restart_block(before) && returned == *now && !has_restart_block(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stopped in a poll with a timeout.
    fn polling() -> Registers {
        Registers {
            orig_rax: libc::SYS_poll as u64,
            rax: -516i64 as u64,
            rip: 0x1002,
            rsp: 0x7000,
            ..Registers::default()
        }
    }

    #[test]
    fn a_result_is_taken_only_from_the_call_that_was_resumed() {
        let resumed = resumed_in_place(&polling());
        assert_eq!(
            resumed.system_call(),
            Some(libc::SYS_restart_syscall as u64)
        );
        // Interrupted again.
        assert!(!has_ended_in_place(&polling(), &resumed));
        // A descriptor is ready.
        let ready = Registers { rax: 1, ..resumed };
        assert!(has_ended_in_place(&polling(), &ready));
        // It has restored itself from its frame instead.
        let restored = restart_ready(&polling());
        assert!(!has_ended_in_place(&polling(), &restored));
        // It was in no call that can be resumed.
        let running = Registers {
            rax: 1,
            ..polling()
        };
        assert!(!has_ended_in_place(&running, &ready));
    }
}
