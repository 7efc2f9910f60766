//! The gateway to `ptrace`.
//!
//! There is one function per request that this crate uses, and all of them are safe to call: the
//! kernel checks that the thread is our tracee and in a stop (`ESRCH` otherwise), and every pointer
//! that is passed is to a buffer borrowed for the call.
#![expect(
    unsafe_code,
    reason = "the only place that calls ptrace, whose last argument may be a pointer"
)]

use std::ffi::c_void;

use rustix::io::Errno;

use crate::sys::address::TargetAddress;
use crate::sys::effects::effect;
use crate::sys::registers::Registers;

/// The regset of the x87, SSE and AVX state, in the XSAVE layout (`include/uapi/linux/elf.h`).
const NT_X86_XSTATE: usize = 0x202;
/// The regset of the user shadow stack (Linux 6.6).
const NT_X86_SHSTK: usize = 0x204;
const NT_PRSTATUS: usize = 1;

/// Bits 16-23 of the wait status of a stop by `PTRACE_INTERRUPT`, of a new thread, and of a group
/// stop.
pub(crate) const EVENT_STOP: i32 = 128;

/// How far a resumed thread runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resume {
    /// Until the next event.
    Continue,
    /// Until the next event or system call entry or exit.
    ToSystemCall,
}

type Result<T> = std::result::Result<T, Errno>;

fn check(result: libc::c_long) -> Result<u64> {
    if result == -1 {
        let error = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    }
    Ok(result as u64)
}

/// A request whose arguments are plain numbers.
///
/// # Safety
/// `request` is one that takes no pointer of ours.
unsafe fn plain(request: libc::c_uint, tid: i32, data: usize) -> Result<()> {
    // SAFETY: the caller's promise; glibc's variadic ptrace passes the two words through unchanged.
    let result = unsafe { libc::ptrace(request, tid, 0usize, data) };
    check(result).map(drop)
}

/// A request whose last argument points to a buffer.
///
/// # Safety
/// `data` points to a live object, borrowed exclusively for the call, of the type and size that
/// `request` transfers.
unsafe fn with_buffer(
    request: libc::c_uint,
    tid: i32,
    address: usize,
    data: *mut c_void,
) -> Result<()> {
    // SAFETY: the caller's promise.
    let result = unsafe { libc::ptrace(request, tid, address, data) };
    check(result).map(drop)
}

/// Reads a register set into `bytes`; returns how many bytes are filled.
fn get_regset(tid: i32, set: usize, bytes: &mut [u8]) -> Result<usize> {
    let mut vector = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: the request transfers an iovec, which names `bytes`, borrowed exclusively.
    unsafe { with_buffer(libc::PTRACE_GETREGSET, tid, set, (&raw mut vector).cast()) }?;
    Ok(vector.iov_len)
}

/// Sets a register set to `bytes`, as many as there are.
fn set_regset(tid: i32, set: usize, bytes: &mut [u8]) -> Result<()> {
    let mut vector = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: as in `get_regset`.
    unsafe { with_buffer(libc::PTRACE_SETREGSET, tid, set, (&raw mut vector).cast()) }
}

/// Becomes the tracer of the thread without stopping it.
pub(crate) fn seize(tid: i32, options: i32) -> Result<()> {
    effect(|| {
        // SAFETY: the request takes no pointer.
        unsafe { plain(libc::PTRACE_SEIZE, tid, options as usize) }
    })
}

/// Asks a seized thread to stop. `wait` reports the stop.
pub(crate) fn interrupt(tid: i32) -> Result<()> {
    effect(|| {
        // SAFETY: the request takes no pointer.
        unsafe { plain(libc::PTRACE_INTERRUPT, tid, 0) }
    })
}

/// Resumes a stopped thread, and delivers `signal` if it is in a signal-delivery-stop.
pub(crate) fn resume(tid: i32, until: Resume, signal: i32) -> Result<()> {
    let request = match until {
        Resume::Continue => libc::PTRACE_CONT,
        Resume::ToSystemCall => libc::PTRACE_SYSCALL,
    };
    effect(|| {
        // SAFETY: both requests take no pointer.
        unsafe { plain(request, tid, signal as usize) }
    })
}

/// Leaves a thread in its group stop, from which `SIGCONT` resumes it.
pub(crate) fn listen(tid: i32) -> Result<()> {
    effect(|| {
        // SAFETY: the request takes no pointer.
        unsafe { plain(libc::PTRACE_LISTEN, tid, 0) }
    })
}

/// Ends tracing of a stopped thread and resumes it.
pub(crate) fn detach(tid: i32) -> Result<()> {
    effect(|| {
        // SAFETY: the request takes no pointer.
        unsafe { plain(libc::PTRACE_DETACH, tid, 0) }
    })
}

/// Replaces the tracing options.
pub(crate) fn set_options(tid: i32, options: i32) -> Result<()> {
    effect(|| {
        // SAFETY: the request takes no pointer.
        unsafe { plain(libc::PTRACE_SETOPTIONS, tid, options as usize) }
    })
}

/// The message of the last event: the new thread, for a clone event.
pub(crate) fn event_message(tid: i32) -> Result<u64> {
    let mut message: libc::c_ulong = 0;
    // SAFETY: the request transfers an unsigned long, which `message` is.
    unsafe { with_buffer(libc::PTRACE_GETEVENTMSG, tid, 0, (&raw mut message).cast()) }?;
    Ok(message)
}

/// The `si_code` of the signal of the current stop.
pub(crate) fn signal_code(tid: i32) -> Result<i32> {
    // siginfo_t is 128 bytes on every architecture; si_signo, si_errno, si_code come first.
    let mut info = [0i32; 32];
    // SAFETY: the request transfers a siginfo_t, for which `info` has room.
    unsafe { with_buffer(libc::PTRACE_GETSIGINFO, tid, 0, info.as_mut_ptr().cast()) }?;
    Ok(info[2])
}

/// Whether a stopped thread is at the entry of a system call, which it will execute next.
pub(crate) fn is_at_system_call_entry(tid: i32, registers: &Registers) -> bool {
    // struct ptrace_syscall_info: the kind of the stop comes first, then what depends on the kind.
    let mut info = [0u64; 11];
    // SAFETY: the request transfers no more bytes than its second argument says, the size of
    // `info`.
    let asked = unsafe {
        with_buffer(
            libc::PTRACE_GET_SYSCALL_INFO,
            tid,
            size_of_val(&info),
            info.as_mut_ptr().cast(),
        )
    };
    match asked {
        Ok(()) => info[0].to_le_bytes()[0] == libc::PTRACE_SYSCALL_INFO_ENTRY,
        // Before Linux 5.3: at the entry the result is preset to this.
        Err(_) => {
            registers.system_call().is_some() && registers.rax as i64 == -i64::from(libc::ENOSYS)
        }
    }
}

/// The general registers.
pub(crate) fn registers(tid: i32) -> Result<Registers> {
    let mut registers = Registers::default();
    let mut vector = libc::iovec {
        iov_base: (&raw mut registers).cast(),
        iov_len: size_of::<Registers>(),
    };
    // SAFETY: the request transfers an iovec; the one here names `registers`, which any bits are
    // valid for.
    unsafe {
        with_buffer(
            libc::PTRACE_GETREGSET,
            tid,
            NT_PRSTATUS,
            (&raw mut vector).cast(),
        )
    }?;
    // A 32-bit thread has a shorter set: 17 words of 4 bytes.
    if vector.iov_len != size_of::<Registers>() {
        return Err(Errno::NOEXEC);
    }
    Ok(registers)
}

/// Sets all general registers in one step.
pub(crate) fn set_registers(tid: i32, registers: &Registers) -> Result<()> {
    let mut copy = *registers;
    let mut vector = libc::iovec {
        iov_base: (&raw mut copy).cast(),
        iov_len: size_of::<Registers>(),
    };
    effect(|| {
        // SAFETY: the request transfers an iovec; the one here names `copy`.
        unsafe {
            with_buffer(
                libc::PTRACE_SETREGSET,
                tid,
                NT_PRSTATUS,
                (&raw mut vector).cast(),
            )
        }
    })
}

/// The extended state (x87, SSE, AVX, ...), in the length that the kernel gives it.
pub(crate) fn extended_state(tid: i32) -> Result<Vec<u8>> {
    // With AMX tiles the set has 11 KiB. The kernel cuts what does not fit and returns how much it
    // wrote, so after a full buffer a larger one is tried.
    let mut size = 16 * 1024;
    loop {
        let mut bytes = vec![0; size];
        let length = get_regset(tid, NT_X86_XSTATE, &mut bytes)?;
        if length < size {
            bytes.truncate(length);
            return Ok(bytes);
        }
        if size >= 1 << 20 {
            return Err(Errno::OVERFLOW);
        }
        size *= 2;
    }
}

/// Sets the extended state to bytes that [`extended_state`] returned.
pub(crate) fn set_extended_state(tid: i32, bytes: &[u8]) -> Result<()> {
    let mut copy = bytes.to_vec();
    effect(|| set_regset(tid, NT_X86_XSTATE, &mut copy))
}

/// Whether the thread has a user shadow stack. Kernels that do not know the register set do not
/// have shadow stacks.
pub(crate) fn has_shadow_stack(tid: i32) -> bool {
    let mut bytes = [0; 8];
    get_regset(tid, NT_X86_SHSTK, &mut bytes).is_ok()
}

/// The blocked signals, one bit each, signal 1 lowest. In ppoll and the like: the mask that will be
/// in force after the call.
pub(crate) fn signal_mask(tid: i32) -> Result<u64> {
    let mut mask = 0u64;
    // SAFETY: the request transfers as many bytes as its second argument says, the size of `mask`.
    unsafe {
        with_buffer(
            libc::PTRACE_GETSIGMASK,
            tid,
            size_of::<u64>(),
            (&raw mut mask).cast(),
        )
    }?;
    Ok(mask)
}

/// Sets the blocked signals.
pub(crate) fn set_signal_mask(tid: i32, mask: u64) -> Result<()> {
    let mut copy = mask;
    effect(|| {
        // SAFETY: as in `signal_mask`.
        unsafe {
            with_buffer(
                libc::PTRACE_SETSIGMASK,
                tid,
                size_of::<u64>(),
                (&raw mut copy).cast(),
            )
        }
    })
}

/// Writes one word, also into read-only pages.
pub(crate) fn poke(tid: i32, address: TargetAddress, word: u64) -> Result<()> {
    let address = address.get() as usize;
    effect(|| {
        // SAFETY: POKEDATA takes the target's address and the word; no host pointer is passed.
        let result = unsafe { libc::ptrace(libc::PTRACE_POKEDATA, tid, address, word as usize) };
        check(result).map(drop)
    })
}
