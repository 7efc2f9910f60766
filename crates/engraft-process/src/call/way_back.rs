//! The way back: from any stop of a remote call to the stop in which the thread was borrowed.
//!
//! A thread that stands at the entry of a system call executes that call as soon as we are gone: the kernel lets
//! go of all threads of a tracer that has been killed, and puts their seccomp filters in force again in the same
//! moment. So what stands there at every instant must be a call that the program's filter allows, and that
//! leads the thread back by itself. A number of -1, which would skip the call, is none: a filter sees it, too, and
//! one that allows a list of calls kills for it.
//!
//! | at the entry | the thread executes | because |
//! |---|---|---|
//! | it sleeps in a call whose rest only the kernel knows | `restart_syscall` | it is what the stop itself makes of the call, so the filter allows it if the program survives any stop; `rt_sigreturn` would make the kernel forget the rest |
//! | anything else | `rt_sigreturn` from the call's frame | it is what the thread does if we die |
//!
//! A request for a stop is pending all the while, so neither lasts, and no instruction of the program is
//! executed. A resumed call may end there all the same, because what it waits for has happened: then its result
//! is the thread's.

use crate::call::remote_error::RemoteCallError;
use crate::call::remote_thread::{Caller, Result};
use crate::call::requests::Service;
use crate::stop::release::PROCESSOR_WITHIN;
use crate::sys::ptrace::{self, Go};
use crate::sys::registers::Registers;
use crate::sys::restart::{has_restart_block, restart_ready, resumed_in_place};
use crate::sys::wait::Event;
use crate::trace::tracees::{Condition, OPTIONS};

impl Caller<'_> {
    /// Puts the thread back to where it was stopped. What fails is tried once more, from the start: half a
    /// thread is worse than anything.
    pub(crate) fn restore(&mut self) -> Result<()> {
        match self.try_to_restore() {
            Err(error @ RemoteCallError::System { .. }) => {
                tracing::debug!(%error, "restoring a thread once more");
                self.try_to_restore()
            }
            restored => restored,
        }
    }

    fn try_to_restore(&mut self) -> Result<()> {
        // In this order: with the registers the thread leaves the reach of the frame, so by then
        // everything else must be in place.
        let state = ptrace::set_extended_state(self.tid, &self.kept.extended_state);
        self.check("restore the extended state of", state)?;
        let mask = ptrace::set_signal_mask(self.tid, self.kept.signal_mask);
        self.check("restore the signal mask of", mask)?;
        self.turn_round()?;
        self.reach_ordinary_stop()?;
        // Not before: until here the filter would have seen our calls.
        if self.kept.suspended {
            self.check("set the options of", ptrace::set_options(self.tid, OPTIONS))?;
        }
        Ok(())
    }

    /// Sets the registers with which the thread leaves the call, wherever in it it stands.
    fn turn_round(&self) -> Result<()> {
        let now = self.check("read the registers of", ptrace::registers(self.tid))?;
        let ready = if !ptrace::is_at_system_call_entry(self.tid, &now) {
            restart_ready(&self.kept.registers)
        } else if has_restart_block(&self.kept.registers) {
            resumed_in_place(&self.kept.registers)
        } else if let Some(stack) = self.kept.frame_at_return {
            Registers {
                orig_rax: libc::SYS_rt_sigreturn as u64,
                rsp: stack.get(),
                ..now
            }
        } else {
            // A system call on the stack of a program in which there was no room for a frame.
            restart_ready(&self.kept.registers)
        };
        if ready == now {
            return Ok(());
        }
        let set = ptrace::set_registers(self.tid, &ready);
        self.check("restore the registers of", set)
    }

    /// From any stop to one in which the kernel's restart logic is still to come, with no
    /// instruction executed in between: a request made during a stop is answered by another stop,
    /// before user mode and before any signal.
    fn reach_ordinary_stop(&mut self) -> Result<()> {
        self.check("interrupt", ptrace::interrupt(self.tid))?;
        self.check("continue", ptrace::go(self.tid, Go::Continue, 0))?;
        let deadline = self.tracees.process.patience(PROCESSOR_WITHIN);
        let mut service = Service::of(None);
        loop {
            let event = self.await_event(&deadline, &mut service)?;
            match event.ok_or_else(|| self.timed_out(&deadline))? {
                Event::Stop { group } => return self.stand_as_before(group),
                Event::Ended => return Err(self.ended()),
                _ => self.check("continue", ptrace::go(self.tid, Go::Continue, 0))?,
            }
        }
    }

    /// The ordinary stop is reached: the thread gets its registers back.
    fn stand_as_before(&mut self, group: bool) -> Result<()> {
        let now = self.check("read the registers of", ptrace::registers(self.tid))?;
        let mut registers = self.kept.registers;
        if has_ended_in_place(&registers, &now) {
            registers = now;
        } else {
            let original = ptrace::set_registers(self.tid, &registers);
            self.check("restore the registers of", original)?;
        }
        if let Some(tracee) = self.tracees.threads.get_mut(&self.tid) {
            tracee.condition = Condition::Stopped { group };
            tracee.registers = registers;
        }
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
