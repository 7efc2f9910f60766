//! The agent's gateway to the kernel: raw x86-64 system calls, no libc, no errno variable.
//!
//! # Safety
//! A system call can do anything to the process. Each wrapper takes only what the agent needs and
//! says what its caller promises; the wrappers that cannot harm memory are safe functions.

#![expect(unsafe_code, reason = "system calls are made with inline assembly")]

use core::arch::asm;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use engraft_machine::{PAGE_SIZE, page_start, request};

/// The kernel's error number, positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Errno(pub u16);

impl Errno {
    /// The address range is taken (`MAP_FIXED_NOREPLACE`).
    pub(crate) const EXIST: Self = Self(17);
    /// Not allowed.
    pub(crate) const PERMISSION: Self = Self(1);
    /// No such process or thread, or it has no memory any more.
    pub(crate) const NO_TASK: Self = Self(3);
    /// An argument that makes no sense.
    pub(crate) const INVALID: Self = Self(22);
    /// Not enough memory, or no such address.
    pub(crate) const NO_MEMORY: Self = Self(12);
}

const READ: usize = 0;
const READ_PROCESS_MEMORY: usize = 310; // process_vm_readv
const PWRITE: usize = 18;
const CLOSE: usize = 3;
const MMAP: usize = 9;
const MPROTECT: usize = 10;
const MUNMAP: usize = 11;
const RT_SIGPROCMASK: usize = 14;
const SIGALTSTACK: usize = 131;
const SCHED_YIELD: usize = 24;
const GETPID: usize = 39;
const GETRLIMIT: usize = 97;
const GETTID: usize = 186;
const FTRUNCATE: usize = 77;
const OPENAT: usize = 257;
const MEMFD_CREATE: usize = 319;

pub(crate) const PROT_NONE: usize = 0;
pub(crate) const PROT_READ: usize = 1;
pub(crate) const PROT_WRITE: usize = 2;
pub(crate) const PROT_EXEC: usize = 4;

pub(crate) const MAP_SHARED: usize = 0x01;
pub(crate) const MAP_PRIVATE: usize = 0x02;
pub(crate) const MAP_FIXED: usize = 0x10;
pub(crate) const MAP_ANONYMOUS: usize = 0x20;
pub(crate) const MAP_NORESERVE: usize = 0x4000;
pub(crate) const MAP_FIXED_NOREPLACE: usize = 0x10_0000;

/// The process has a seccomp filter.
static FILTERED: AtomicBool = AtomicBool::new(false);

/// The holder of the agent's lock may only make the calls that every loader makes: mmap, mprotect,
/// munmap.
static RESTRICTED: AtomicBool = AtomicBool::new(false);

/// Notes that the process has a seccomp filter. From now on the loader's hook, which runs under it,
/// makes no system call that the loader itself does not make. (Commands run with the filter
/// suspended.)
pub(crate) fn set_filtered() {
    // ORDERING: a flag that stands for itself; the hook reads it once in each call.
    FILTERED.store(true, Ordering::Relaxed);
}

/// Whether the process has a seccomp filter.
pub(crate) fn is_filtered() -> bool {
    // ORDERING: as in `set_filtered`.
    FILTERED.load(Ordering::Relaxed)
}

/// Number of the process that the holder of the agent's lock runs in; 0 before the first one. It is
/// used only while calls are not restricted.
static PROCESS: AtomicU64 = AtomicU64::new(0);

/// Notes in which process the new holder of the agent's lock runs, and whether its calls are
/// restricted.
pub(crate) fn set_caller(process: u64, restricted: bool) {
    // ORDERING: read by this same thread, or by a later holder after it has set it.
    PROCESS.store(process, Ordering::Relaxed);
    // ORDERING: as above.
    RESTRICTED.store(restricted, Ordering::Relaxed);
}

fn process() -> usize {
    // ORDERING: as in `set_caller`.
    PROCESS.load(Ordering::Relaxed) as usize
}

fn is_restricted() -> bool {
    // ORDERING: as in `set_caller`.
    RESTRICTED.load(Ordering::Relaxed)
}

/// Makes a system call.
///
/// # Safety
/// The call must not break memory that Rust code relies on.
unsafe fn system_call(number: usize, arguments: [usize; 6]) -> Result<usize, Errno> {
    let result: isize;
    // SAFETY: the registers are those of the kernel's x86-64 convention; rcx and r11 are what it
    // clobbers; what the call does to memory is the caller's promise.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") arguments[0],
            in("rsi") arguments[1],
            in("rdx") arguments[2],
            in("r10") arguments[3],
            in("r8") arguments[4],
            in("r9") arguments[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    // The kernel returns -4095..=-1 for errors.
    match result {
        -4095..=-1 => Err(Errno(result.unsigned_abs() as u16)),
        _ => Ok(result as usize),
    }
}

/// Whether this thread is on its alternate signal stack; `None` if the kernel does not say.
///
/// This is part of dispatch, which saves general registers only. [`system_call`] would clear its
/// array of arguments with vector registers, and these are the program's.
pub(crate) fn is_on_alternate_stack() -> Option<bool> {
    /// `SS_ONSTACK` (kernel: include/uapi/linux/signal.h).
    const ON_STACK: u32 = 1;
    /// `stack_t` of the kernel. It is not cleared, for the same reason.
    #[repr(C)]
    struct SignalStack {
        _address: MaybeUninit<u64>,
        flags: MaybeUninit<u32>,
        _size: MaybeUninit<u64>,
    }
    let mut stack = SignalStack {
        _address: MaybeUninit::uninit(),
        flags: MaybeUninit::uninit(),
        _size: MaybeUninit::uninit(),
    };
    let result: usize;
    // SAFETY: the kernel writes a `stack_t` there, and changes nothing but the registers that are
    // named.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") SIGALTSTACK => result,
            in("rdi") 0,
            in("rsi") &raw mut stack,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    if result != 0 {
        return None;
    }
    // SAFETY: the call has succeeded, so the kernel has written it.
    let flags = unsafe { stack.flags.assume_init() };
    Some(flags & ON_STACK != 0)
}

/// Maps memory; the address of the mapping.
///
/// # Safety
/// With `MAP_FIXED`, nothing that is in use may be at `address`.
pub(crate) unsafe fn map(
    address: u64,
    length: usize,
    protection: usize,
    flags: usize,
    file: Option<&File>,
    offset: usize,
) -> Result<u64, Errno> {
    let descriptor = file.map_or(usize::MAX, |file| file.0);
    let arguments = [
        address as usize,
        length,
        protection,
        flags,
        descriptor,
        offset,
    ];
    // SAFETY: the caller promises that a fixed address is free or its own.
    unsafe { system_call(MMAP, arguments) }.map(|address| address as u64)
}

/// Unmaps memory.
///
/// # Safety
/// Nothing may use the range any more.
pub(crate) unsafe fn unmap(address: u64, length: usize) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    unsafe { system_call(MUNMAP, [address as usize, length, 0, 0, 0, 0]) }.map(drop)
}

/// Changes the protection of whole pages.
///
/// # Safety
/// No access that the new protection forbids may happen.
pub(crate) unsafe fn protect(address: u64, length: usize, protection: usize) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    unsafe { system_call(MPROTECT, [address as usize, length, protection, 0, 0, 0]) }.map(drop)
}

/// An open file; closed when dropped.
pub(crate) struct File(usize);

impl File {
    /// The number of its descriptor.
    pub(crate) fn number(&self) -> u64 {
        self.0 as u64
    }

    /// Opens a file for reading.
    pub(crate) fn open(path: &core::ffi::CStr) -> Result<Self, Errno> {
        const O_CLOEXEC: usize = 0o2_000_000;
        const AT_FDCWD: usize = -100_isize as usize;
        if is_restricted() {
            return Err(Errno::PERMISSION);
        }
        let path = path.as_ptr() as usize;
        // SAFETY: the call reads the path, a valid C string.
        unsafe { system_call(OPENAT, [AT_FDCWD, path, O_CLOEXEC, 0, 0, 0]) }.map(Self)
    }

    /// Opens the calling thread's own memory as a file, for reading and writing. Not by
    /// `/proc/self`: that is the process's leader, which may have exited.
    pub(crate) fn own_memory() -> Result<Self, Errno> {
        const O_RDWR_CLOEXEC: usize = 0o2 | 0o2_000_000;
        const AT_FDCWD: usize = -100_isize as usize;
        if is_restricted() {
            return Err(Errno::PERMISSION);
        }
        let path = c"/proc/thread-self/mem".as_ptr() as usize;
        // SAFETY: opening a file touches no memory of ours but the path, which is a constant.
        unsafe { system_call(OPENAT, [AT_FDCWD, path, O_RDWR_CLOEXEC, 0, 0, 0]) }.map(Self)
    }

    /// Makes an anonymous file of `length` bytes in memory; `name` shows in /proc/PID/maps. It
    /// fails if the process's limit of file sizes is lower, because the kernel would send SIGXFSZ.
    pub(crate) fn in_memory(name: &core::ffi::CStr, length: usize) -> Result<Self, Errno> {
        const MFD_CLOEXEC: usize = 1;
        if is_restricted() || file_size_limit()? < length as u64 {
            return Err(Errno::PERMISSION);
        }
        let arguments = [name.as_ptr() as usize, MFD_CLOEXEC, 0, 0, 0, 0];
        // SAFETY: the call reads the name, a valid C string.
        let file = unsafe { system_call(MEMFD_CREATE, arguments) }.map(Self)?;
        // SAFETY: nobody has mapped the new file.
        unsafe { system_call(FTRUNCATE, [file.0, length, 0, 0, 0, 0]) }?;
        Ok(file)
    }

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Safety
    /// If the file is the process's memory: the bytes there may be replaced.
    pub(crate) unsafe fn write_at(&self, mut bytes: &[u8], mut offset: u64) -> Result<(), Errno> {
        const EIO: Errno = Errno(5);
        while !bytes.is_empty() {
            let arguments = [
                self.0,
                bytes.as_ptr() as usize,
                bytes.len(),
                offset as usize,
                0,
                0,
            ];
            // SAFETY: the kernel reads `bytes`; what it overwrites is the caller's promise.
            let written = unsafe { system_call(PWRITE, arguments) }?;
            bytes = bytes.get(written..).filter(|_| written > 0).ok_or(EIO)?;
            offset += written as u64;
        }
        Ok(())
    }
}

/// The soft limit of file sizes, in bytes.
fn file_size_limit() -> Result<u64, Errno> {
    const RLIMIT_FSIZE: usize = 1;
    let mut limits = [0_u64; 2];
    let arguments = [RLIMIT_FSIZE, limits.as_mut_ptr() as usize, 0, 0, 0, 0];
    // SAFETY: the kernel writes the two limits.
    unsafe { system_call(GETRLIMIT, arguments) }?;
    let [soft, _] = limits;
    Ok(soft)
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: the descriptor is ours. There is nothing to do about an error: the kernel has
        // released the descriptor in any case.
        let _ = unsafe { system_call(CLOSE, [self.0, 0, 0, 0, 0, 0]) };
    }
}

/// Copies memory of this process into `buffer`; false if not all of it is mapped and readable.
///
/// For addresses that come from the target's own structures: a wrong address is an answer, not a
/// crash.
// Not inlined: it is used for many types, and the agent is to be small.
#[inline(never)]
pub(crate) fn read_own_memory(address: u64, buffer: &mut [u8]) -> bool {
    if is_restricted() {
        return read_if_mapped(address, buffer);
    }
    let local = [buffer.as_mut_ptr() as usize, buffer.len()];
    let remote = [address as usize, buffer.len()];
    let read = |task| {
        let arguments = [
            task,
            local.as_ptr() as usize,
            1,
            remote.as_ptr() as usize,
            1,
            0,
        ];
        // SAFETY: the kernel writes at most `buffer.len()` bytes to `buffer`.
        unsafe { system_call(READ_PROCESS_MEMORY, arguments) }
    };
    // The process's number stands for its first thread. When that thread has ended, it has no
    // memory, and the calling thread's number is used.
    let copied = match read(process()) {
        Err(Errno::NO_TASK) => read(thread_id()),
        copied => copied,
    };
    copied == Ok(buffer.len())
}

/// The same without that call: mmap says whether something is mapped. A mapping that may not be
/// read is still a crash, but no address in a loaded file leads to one.
#[cold]
fn read_if_mapped(address: u64, buffer: &mut [u8]) -> bool {
    if !is_readable(address, buffer.len() as u64) {
        return false;
    }
    let from = core::ptr::with_exposed_provenance::<u8>(address as usize);
    // SAFETY: all of it is mapped; the buffer is the caller's and as long.
    unsafe { core::ptr::copy(from, buffer.as_mut_ptr(), buffer.len()) };
    true
}

/// Whether all of this memory can be read, at this moment.
pub(crate) fn is_readable(address: u64, length: u64) -> bool {
    let Some(end) = address.checked_add(length) else {
        return false;
    };
    let mut page = page_start(address);
    while page < end {
        let readable = match is_restricted() {
            true => is_mapped(page, PAGE_SIZE as usize),
            false => is_word_readable(page),
        };
        if !readable {
            return false;
        }
        page += PAGE_SIZE;
    }
    true
}

/// Whether a word can be read. The cheapest call that makes the kernel read one is rt_sigprocmask
/// with an unknown operation: the kernel refuses the operation only after it has read the set of
/// signals.
fn is_word_readable(address: u64) -> bool {
    const NOTHING_KNOWN: usize = 99;
    let arguments = [NOTHING_KNOWN, address as usize, 0, size_of::<u64>(), 0, 0];
    // SAFETY: the kernel changes no signals where it does not know what to do.
    let result = unsafe { system_call(RT_SIGPROCMASK, arguments) };
    result == Err(Errno::INVALID)
}

fn is_mapped(page: u64, length: usize) -> bool {
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
    // SAFETY: MAP_FIXED_NOREPLACE never takes a used range.
    match unsafe { map(page, length, PROT_NONE, flags, None, 0) } {
        Ok(address) => {
            // SAFETY: the mapping was just made and nobody uses it. An error could only mean that
            // it is gone already.
            let _ = unsafe { unmap(address, length) };
            // A kernel before 4.17 takes the flag for a hint, and so says that the place is taken.
            address != page
        }
        Err(errno) => errno == Errno::EXIST,
    }
}

/// The process (thread group) that runs this code; differs in a forked child.
pub(crate) fn process_id() -> usize {
    // SAFETY: getpid touches no memory; it cannot fail.
    unsafe { system_call(GETPID, [0; 6]) }.unwrap_or(0)
}

/// The calling thread.
fn thread_id() -> usize {
    // SAFETY: gettid touches no memory; it cannot fail.
    unsafe { system_call(GETTID, [0; 6]) }.unwrap_or(0)
}

/// Gives the processor to another thread.
pub(crate) fn yield_now() {
    // SAFETY: sched_yield touches no memory; it cannot fail.
    let _ = unsafe { system_call(SCHED_YIELD, [0; 6]) };
}

/// Stops for the tracer, with a request at `address` ([`engraft_machine::request`]). Every filter
/// allows the call, and it does nothing: it reads from no file. The answer is in the request.
pub(crate) fn call_tracer(address: u64) {
    let no_file = u32::MAX as usize;
    // SAFETY: without a file nothing is read.
    let _ = unsafe {
        system_call(
            READ,
            [no_file, address as usize, request::LENGTH as usize, 0, 0, 0],
        )
    };
}

/// A set of signals, as the kernel has it.
#[derive(Clone, Copy)]
pub(crate) struct SignalSet(u64);

impl SignalSet {
    /// All of them.
    pub(crate) const ALL: Self = Self(u64::MAX);

    /// As a number.
    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    /// From a number.
    #[cfg(feature = "freestanding")]
    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

/// Sets the calling thread's blocked signals; the ones that were blocked before.
pub(crate) fn block_signals(set: SignalSet) -> SignalSet {
    const SIG_SETMASK: usize = 2;
    let mut before = SignalSet(0);
    let arguments = [
        SIG_SETMASK,
        &raw const set as usize,
        &raw mut before as usize,
        size_of::<u64>(),
        0,
        0,
    ];
    // SAFETY: the kernel reads one set and writes one set. With these arguments it cannot fail.
    let _ = unsafe { system_call(RT_SIGPROCMASK, arguments) };
    before
}
