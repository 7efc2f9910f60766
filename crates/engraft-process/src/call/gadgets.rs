//! Instructions already in the target that a first remote system call can use.

use std::os::unix::ffi::OsStrExt;

use crate::memory::access::Memory;
use crate::memory::maps::{Mapping, Maps};
use crate::process::handle::Process;
use crate::process::limits::{Budget, CODE_BYTES};
use crate::sys::address::TargetAddress;
use crate::sys::restart::SYSCALL;

/// `syscall; ret`.
const SYSTEM_CALL_RETURN: &[u8] = &[0x0f, 0x05, 0xc3];
/// `syscall`.
const SYSTEM_CALL: &[u8] = &SYSCALL;
/// `mov $15, %rax; syscall` (glibc, musl) and `mov $15, %eax; syscall`: what sigaction installs for
/// handlers to return to. Every C library has one, and static programs that use signals.
const RESTORERS: [&[u8]; 2] = [
    &[0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05],
    &[0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05],
];
/// Length of the longest of them, in bytes.
pub(crate) const LONGEST_RESTORER: usize = 9;
/// Larger text is searched only up to here.
const MAX_TEXT: u64 = 64 << 20;

/// Where these instructions are. What is here was there when it was found; it is looked at again
/// before every use, for a library may have been unloaded since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gadgets {
    system_call_return: Option<TargetAddress>,
    system_call: Option<TargetAddress>,
    restorer: Option<TargetAddress>,
}

/// Which memory stays where it is while a call is made that may unmap any other, such as the agent's, which has
/// these instructions, too: a thread whose tracer is killed after such a call goes on at the restorer.
struct Lasting {
    /// The file of the program, which may be one in memory.
    program: Option<(u32, u32, u64)>,
}

impl Lasting {
    fn of(process: &Process, maps: &Maps) -> Self {
        let started = process.auxiliary_vector().ok().flatten();
        let entry = started.and_then(|started| started.entry());
        let program = entry.and_then(|entry| maps.find(entry));
        let program = program.filter(|mapping| mapping.has_file());
        Self {
            program: program.map(|mapping| mapping.file),
        }
    }

    /// The vDSO, the program, and what lies in a file system.
    fn contains(&self, mapping: &Mapping) -> bool {
        let name = mapping.name.as_bytes();
        let in_file_system = name.starts_with(b"/") && !name.starts_with(b"/memfd:");
        let is_program = || self.program == Some(mapping.file);
        mapping.name == "[vdso]" || (mapping.has_file() && (in_file_system || is_program()))
    }
}

fn position(text: &[u8], pattern: &[u8]) -> Option<u64> {
    let found = text
        .windows(pattern.len())
        .position(|window| window == pattern);
    found.map(|offset| offset as u64)
}

impl Gadgets {
    /// Searches all executable mappings that last until everything is found.
    pub(crate) fn find(process: &Process) -> Self {
        let mut gadgets = Self::default();
        let Ok(maps) = process.maps() else {
            return gadgets;
        };
        // The vDSO is small, and the C library comes late: from the top of the address space down,
        // both come before large programs.
        let lasting = Lasting::of(process, &maps);
        let executable = |mapping: &&Mapping| {
            mapping.executable && mapping.readable && lasting.contains(mapping)
        };
        let budget = Budget::new(process, "bytes of code", CODE_BYTES);
        let memory = process.memory().within(&budget);
        for mapping in maps.iter().rev().filter(executable) {
            gadgets.search(memory, mapping);
            if gadgets.system_call_return.is_some() && gadgets.restorer.is_some() {
                break;
            }
        }
        gadgets
    }

    fn search(&mut self, memory: Memory<'_>, mapping: &Mapping) {
        let start = mapping.range.start;
        let length = (mapping.range.end - start).min(MAX_TEXT);
        let Ok(text) = memory.read_bytes(start, length, MAX_TEXT) else {
            return;
        };
        let find = |pattern| position(&text, pattern).map(|offset| start + offset);
        self.system_call_return = self.system_call_return.or_else(|| find(SYSTEM_CALL_RETURN));
        self.system_call = self.system_call.or_else(|| find(SYSTEM_CALL));
        self.restorer = self
            .restorer
            .or_else(|| RESTORERS.into_iter().find_map(find));
    }

    /// A `syscall` instruction, and whether a `ret` follows it.
    pub(crate) fn system_call(&self, process: &Process) -> Option<(TargetAddress, bool)> {
        let returning = check(process, self.system_call_return, &[SYSTEM_CALL_RETURN]);
        let plain = || check(process, self.system_call, &[SYSTEM_CALL]);
        returning
            .map(|at| (at, true))
            .or_else(|| plain().map(|at| (at, false)))
    }

    /// Code that calls `rt_sigreturn`.
    pub(crate) fn restorer(&self, process: &Process) -> Option<TargetAddress> {
        check(process, self.restorer, &RESTORERS)
    }
}

/// Is the code at this address one that calls `rt_sigreturn`?
pub(crate) fn is_restorer(process: &Process, at: TargetAddress) -> bool {
    check(process, Some(at), &RESTORERS).is_some()
}

/// Does this code start by calling `rt_sigreturn`?
pub(crate) fn starts_as_restorer(code: &[u8]) -> bool {
    RESTORERS
        .into_iter()
        .any(|pattern| code.starts_with(pattern))
}

/// The address, if one of the patterns is still there.
fn check(
    process: &Process,
    at: Option<TargetAddress>,
    patterns: &[&[u8]],
) -> Option<TargetAddress> {
    let at = at?;
    let is_there = |pattern: &&[u8]| {
        let length = pattern.len() as u64;
        let bytes = process.memory().read_bytes(at, length, length);
        bytes.is_ok_and(|bytes| bytes == **pattern)
    };
    patterns.iter().any(is_there).then_some(at)
}
