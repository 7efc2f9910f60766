//! Instructions in the process that a first remote system call borrows.

use std::os::unix::ffi::OsStrExt;

use crate::memory::access::Memory;
use crate::memory::instructions::{RESTORERS, find_at};
use crate::memory::maps::{Mapping, Maps};
use crate::process::borrowed_code::BorrowedCode;
use crate::process::handle::Process;
use crate::process::limits::{Budget, CODE_BYTES};
use crate::sys::address::TargetAddress;
use crate::sys::restart::SYSCALL;

/// `syscall; ret`.
const SYSTEM_CALL_RETURN: &[u8] = &[0x0f, 0x05, 0xc3];
/// `syscall`.
const SYSTEM_CALL: &[u8] = &SYSCALL;
/// Larger text is searched only up to here.
const MAX_TEXT: u64 = 64 << 20;

/// A `syscall` instruction.
pub(super) struct SystemCallInstruction {
    pub(super) at: TargetAddress,
    /// A `ret` follows it.
    pub(super) returns: bool,
}

/// A `syscall` instruction of the process.
pub(super) fn find_system_call(process: &Process) -> Option<SystemCallInstruction> {
    let code = borrowed_code(process);
    let memory = Memory::new(process);
    let found = |at: Option<TargetAddress>, pattern: &[u8], returns| {
        let at = find_at(memory, at, &[pattern])?;
        Some(SystemCallInstruction { at, returns })
    };
    found(code.system_call_return, SYSTEM_CALL_RETURN, true)
        .or_else(|| found(code.system_call, SYSTEM_CALL, false))
}

/// Code of the process that calls `rt_sigreturn`.
pub(super) fn find_restorer(process: &Process) -> Option<TargetAddress> {
    let code = borrowed_code(process);
    find_at(Memory::new(process), code.restorer, &RESTORERS)
}

/// The instructions of the process: searched for at the first call, and kept.
pub(crate) fn borrowed_code(process: &Process) -> BorrowedCode {
    process.borrowed_code(|| search(process))
}

/// Which memory stays mapped while a system call is made that may unmap any other, such as the
/// agent's, which has these instructions, too: a thread whose tracer is killed after such a call
/// continues at the restorer.
struct LastingMemory {
    /// The file of the program, which may be one in memory.
    program: Option<(u32, u32, u64)>,
}

impl LastingMemory {
    fn of(process: &Process, maps: &Maps) -> Self {
        let started = process.auxiliary_vector().ok().flatten();
        let entry = started.and_then(|started| started.entry());
        let program = entry.and_then(|entry| maps.find(entry));
        let program = program.filter(|mapping| mapping.has_file());
        Self {
            program: program.map(|mapping| mapping.file),
        }
    }

    /// Whether the mapping is of the vDSO, of the program, or of a file in a file system.
    fn contains(&self, mapping: &Mapping) -> bool {
        let name = mapping.name.as_bytes();
        let in_file_system = name.starts_with(b"/") && !name.starts_with(b"/memfd:");
        let is_program = || self.program == Some(mapping.file);
        mapping.name == "[vdso]" || (mapping.has_file() && (in_file_system || is_program()))
    }
}

/// Searches all executable mappings that last, until all instructions are found.
fn search(process: &Process) -> BorrowedCode {
    let mut code = BorrowedCode::default();
    let Ok(maps) = Maps::read(process) else {
        return code;
    };
    let lasting = LastingMemory::of(process, &maps);
    let executable =
        |mapping: &&Mapping| mapping.executable && mapping.readable && lasting.contains(mapping);
    let budget = Budget::new(process.pid(), "bytes of code", CODE_BYTES);
    let memory = Memory::new(process).within(&budget);
    // From the top of the address space down: the vDSO, which is small, and the C library come
    // before large programs.
    for mapping in maps.iter().rev().filter(executable) {
        search_in(&mut code, memory, mapping);
        if code.system_call_return.is_some() && code.restorer.is_some() {
            break;
        }
    }
    code
}

fn search_in(code: &mut BorrowedCode, memory: Memory<'_>, mapping: &Mapping) {
    let start = mapping.range.start;
    let length = (mapping.range.end - start).min(MAX_TEXT);
    let Ok(text) = memory.read_bytes(start, length, MAX_TEXT) else {
        return;
    };
    let find = |pattern| position(&text, pattern).map(|offset| start + offset);
    code.system_call_return = code.system_call_return.or_else(|| find(SYSTEM_CALL_RETURN));
    code.system_call = code.system_call.or_else(|| find(SYSTEM_CALL));
    let restorer = || RESTORERS.into_iter().find_map(find);
    code.restorer = code.restorer.or_else(restorer);
}

fn position(text: &[u8], pattern: &[u8]) -> Option<u64> {
    let mut windows = text.windows(pattern.len());
    let found = windows.position(|window| window == pattern);
    found.map(|offset| offset as u64)
}
