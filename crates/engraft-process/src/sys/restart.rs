//! System calls that our stop interrupts continue as if nothing had happened.
//!
//! A stop wakes a thread that sleeps in a system call. The call returns one of the kernel's
//! internal `-ERESTART*` codes, and on the way to user mode the kernel runs the call again, unless
//! a signal handler is to run. The stop happens before that decision, so for these calls nothing
//! has to be done.
//!
//! A few calls return a plain `-EINTR` instead. With other tracers the program sees it, once per
//! stop. We replace it by `-ERESTARTNOHAND` before the thread is resumed. Then the kernel decides
//! as for the other calls, knowing which signals are pending at that moment. A signal with a
//! handler still makes the call return `EINTR`, as signal(7) promises for exactly these calls,
//! "regardless of SA_RESTART". No signal can come between a look at the pending ones and the
//! restart.
//!
//! A call with a relative timeout starts again with the full one: only the kernel knows the
//! remainder. A stop may make such a call wait longer, never shorter.

use crate::sys::address::TargetAddress;
use crate::sys::registers::Registers;

const EINTR: i64 = -4;
const ERESTARTSYS: i64 = -512;
const ERESTARTNOINTR: i64 = -513;
const ERESTARTNOHAND: i64 = -514;
const ERESTART_RESTARTBLOCK: i64 = -516;
pub(crate) const RESTART_SYSCALL: u64 = libc::SYS_restart_syscall as u64;
/// The instruction `syscall`.
pub(crate) const SYSCALL: [u8; 2] = [0x0f, 0x05];
const SYSCALL_LENGTH: u64 = SYSCALL.len() as u64;

/// When a call that returns `-EINTR` after a stop may be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Restart {
    /// Always: the call has done nothing yet when it returns this.
    Safe,
    /// If the first argument is a socket. For other files the answer may come from a driver or a
    /// file system server, whose `EINTR` may mean anything.
    SafeOnSockets,
}

/// The rule for a call that the kernel does not restart by itself, if the call has had no effect
/// when it returns `-EINTR` (otherwise it would return the effect).
fn rule(number: u64) -> Option<Restart> {
    // Not in the list on purpose: close (the descriptor is closed all the same), and every call
    // whose EINTR comes from a device driver (ioctl, open).
    match i64::try_from(number).ok()? {
        // No event was taken off the list. Relative timeout.
        libc::SYS_epoll_wait | libc::SYS_epoll_pwait | libc::SYS_epoll_pwait2 => {
            Some(Restart::Safe)
        }
        // No operation of the set was carried out: they are atomic. Relative timeout.
        libc::SYS_semop | libc::SYS_semtimedop => Some(Restart::Safe),
        // No signal was taken. Relative timeout.
        libc::SYS_rt_sigtimedwait => Some(Restart::Safe),
        // No event was taken; if one was, the number of events is returned. Relative timeout.
        libc::SYS_io_getevents => Some(Restart::Safe),
        // Nothing was submitted; if something was, its number is returned.
        libc::SYS_io_uring_enter => Some(Restart::Safe),
        // Sockets with SO_RCVTIMEO or SO_SNDTIMEO (sock_intr_errno): nothing was transferred. A
        // connect continues to wait for the connection under way. Relative timeout.
        libc::SYS_recvfrom
        | libc::SYS_recvmsg
        | libc::SYS_recvmmsg
        | libc::SYS_sendto
        | libc::SYS_sendmsg
        | libc::SYS_sendmmsg
        | libc::SYS_accept
        | libc::SYS_accept4
        | libc::SYS_connect => Some(Restart::Safe),
        libc::SYS_read | libc::SYS_readv | libc::SYS_write | libc::SYS_writev => {
            Some(Restart::SafeOnSockets)
        }
        _ => None,
    }
}

/// If the thread is about to return `EINTR` from one of these calls, makes the kernel decide about
/// a restart instead; says whether it did. `is_socket` is asked about a file descriptor if needed.
pub(crate) fn hide_our_interrupt(
    registers: &mut Registers,
    is_socket: impl FnOnce(u64) -> bool,
) -> bool {
    if registers.rax as i64 != EINTR {
        return false;
    }
    let harmless = match registers.system_call().and_then(rule) {
        Some(Restart::Safe) => true,
        Some(Restart::SafeOnSockets) => is_socket(registers.rdi),
        None => false,
    };
    if harmless {
        registers.rax = ERESTARTNOHAND as u64;
    }
    harmless
}

/// If the thread is about to make `restart_syscall`, sets its registers to those that it had in the
/// interrupted call, from which the kernel leads it to the same place again; says whether it did.
///
/// A thread is in this state if it was resumed and is stopped again at once. It is in user mode, in
/// no call, and still only the kernel knows how much of its sleep is left: an `rt_sigreturn` would
/// make the kernel forget that.
pub(crate) fn undo_restart(
    registers: &mut Registers,
    code: impl FnOnce(TargetAddress) -> Option<[u8; SYSCALL.len()]>,
) -> bool {
    let at = registers.instruction_pointer();
    let is_about_to = registers.rax == RESTART_SYSCALL && code(at) == Some(SYSCALL);
    if is_about_to {
        *registers = Registers {
            rip: (at + SYSCALL_LENGTH).get(),
            rax: ERESTART_RESTARTBLOCK as u64,
            orig_rax: RESTART_SYSCALL,
            ..*registers
        };
    }
    is_about_to
}

/// Whether the kernel will run the interrupted call again when the thread is resumed.
pub(crate) fn will_restart(registers: &Registers) -> bool {
    let code = registers.rax as i64;
    registers.system_call().is_some()
        && matches!(
            code,
            ERESTARTSYS | ERESTARTNOINTR | ERESTARTNOHAND | ERESTART_RESTARTBLOCK
        )
}

/// Whether only the kernel knows the rest of the interrupted call (nanosleep, poll, futex with a
/// timeout). A sigreturn makes the kernel forget it.
pub(crate) fn has_restart_block(registers: &Registers) -> bool {
    will_restart(registers) && registers.rax as i64 == ERESTART_RESTARTBLOCK
}

/// The registers with which the thread can continue from user mode: what the kernel's signal path
/// would do for a restart is done already.
pub(crate) fn restart_ready(registers: &Registers) -> Registers {
    let mut ready = *registers;
    if will_restart(registers) {
        ready.rip = registers.rip.wrapping_sub(SYSCALL_LENGTH);
        ready.rax = if has_restart_block(registers) {
            RESTART_SYSCALL
        } else {
            registers.orig_rax
        };
    }
    ready.orig_rax = u64::MAX;
    ready
}

/// The registers with which a thread that is at the entry of another call makes the kernel resume
/// its interrupted call.
pub(crate) fn resumed_in_place(registers: &Registers) -> Registers {
    Registers {
        orig_rax: RESTART_SYSCALL,
        ..*registers
    }
}

/// As [`restart_ready`], for a thread that will restore itself by `rt_sigreturn`, which makes the
/// kernel forget the rest of a nanosleep or poll. The call, whose number is given, starts again
/// from the beginning: it takes longer than it should, but is not interrupted. Without the number
/// it returns `EINTR`.
pub(crate) fn restart_ready_without_kernel(registers: &Registers, call: Option<u64>) -> Registers {
    let mut ready = restart_ready(registers);
    if has_restart_block(registers) {
        ready.rax = call.unwrap_or(registers.orig_rax);
    }
    ready
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_call(number: i64, result: i64) -> Registers {
        Registers {
            orig_rax: number as u64,
            rax: result as u64,
            rip: 0x1002,
            rdi: 7,
            ..Registers::default()
        }
    }

    #[test]
    fn only_listed_calls_are_restarted() {
        for (number, expected) in [
            (libc::SYS_epoll_wait, true),
            (libc::SYS_semop, true),
            (libc::SYS_close, false),
            (libc::SYS_ioctl, false),
        ] {
            let mut registers = in_call(number, EINTR);
            assert_eq!(hide_our_interrupt(&mut registers, |_| false), expected);
            assert_eq!(registers.rax as i64 == ERESTARTNOHAND, expected);
        }
    }

    #[test]
    fn a_read_is_restarted_only_on_a_socket() {
        let mut registers = in_call(libc::SYS_read, EINTR);
        assert!(!hide_our_interrupt(&mut registers, |_| false));
        assert!(hide_our_interrupt(&mut registers, |descriptor| descriptor == 7));
    }

    #[test]
    fn a_thread_that_is_in_no_call_is_left_alone() {
        let mut registers = in_call(-1, EINTR);
        assert!(!hide_our_interrupt(&mut registers, |_| true));
        assert_eq!(restart_ready(&registers), registers);
    }

    #[test]
    fn a_call_that_is_about_to_be_resumed_is_still_interrupted() {
        let interrupted = in_call(libc::SYS_restart_syscall, ERESTART_RESTARTBLOCK);
        let about_to = restart_ready(&interrupted);
        let mut registers = about_to;
        assert!(undo_restart(&mut registers, |_| Some(SYSCALL)));
        assert_eq!(registers, interrupted);
        // The number is a number, and the instruction another one or unknown.
        let mut registers = about_to;
        assert!(!undo_restart(&mut registers, |_| Some([0x90, 0x90])));
        assert!(!undo_restart(&mut registers, |_| None));
        assert_eq!(registers, about_to);
    }

    #[test]
    fn restart_ready_steps_back_onto_the_instruction() {
        let ready = restart_ready(&in_call(libc::SYS_futex, ERESTARTSYS));
        assert_eq!((ready.rip, ready.rax as i64), (0x1000, libc::SYS_futex));
        let ready = restart_ready(&in_call(libc::SYS_poll, ERESTART_RESTARTBLOCK));
        assert_eq!((ready.rip, ready.rax), (0x1000, RESTART_SYSCALL));
        let ready = restart_ready_without_kernel(
            &in_call(libc::SYS_restart_syscall, ERESTART_RESTARTBLOCK),
            Some(libc::SYS_poll as u64),
        );
        assert_eq!((ready.rip, ready.rax as i64), (0x1000, libc::SYS_poll));
        let ready = restart_ready(&in_call(libc::SYS_getpid, 42));
        assert_eq!((ready.rip, ready.rax), (0x1002, 42));
        assert_eq!(ready.system_call(), None);
    }
}
