//! Making a system call by instructions that the process has.

use std::ffi::CStr;
use std::time::Duration;

use engraft_machine::RED_ZONE;

use crate::call::call_thread::{CallThread, Result};
use crate::call::gadgets::{find_restorer, find_system_call};
use crate::call::remote_call_error::RemoteCallError;
use crate::call::requests::RequestHandler;
use crate::call::signal_frame::SignalFrame;
use crate::memory::access::{Memory, MemoryError};
use crate::sys::address::TargetAddress;
use crate::sys::ptrace;

/// System calls that every dynamic loader makes: a filter that forbids them cannot be in place.
const LOADER_CALLS: [i64; 8] = [
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_munmap,
    libc::SYS_read,
    libc::SYS_close,
    libc::SYS_openat,
    libc::SYS_pread64,
    libc::SYS_fstat,
];
const MAX_ERRNO: i64 = 4095;
/// How long a remote system call may take: long enough for a thread that hardly gets a processor.
const SYSTEM_CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A frame on the thread's own stack, and the bytes that were there.
struct BorrowedStack {
    frame: SignalFrame,
    before: Vec<u8>,
    /// Where the text is that the frame carries.
    text: Option<TargetAddress>,
}

impl CallThread<'_> {
    /// Makes a system call by borrowed instructions, on the thread's own stack. With a `text`, its
    /// address is the first argument; the text is in the frame.
    ///
    /// Where the process has no restorer, or the stack has no room, there is no frame: then a
    /// thread whose tracer is killed during these few microseconds continues after the borrowed
    /// instruction.
    pub(super) fn system_call(
        mut self,
        number: i64,
        mut arguments: [u64; 6],
        text: Option<&CStr>,
    ) -> Result<u64> {
        self.suspend_filter(LOADER_CALLS.contains(&number))?;
        let process = self.process().clone();
        let pid = process.pid();
        // In a process that has just been killed, nothing is found either.
        let instruction = find_system_call(&process).ok_or_else(|| match process.is_alive() {
            true => RemoteCallError::NoInstruction { pid },
            false => RemoteCallError::Gone { pid },
        })?;
        let restorer = find_restorer(&process).filter(|_| instruction.returns);
        let borrowed = match restorer {
            Some(restorer) => self.borrow_stack(restorer, text)?,
            None => None,
        };
        if text.is_some() {
            let at = borrowed.as_ref().and_then(|borrowed| borrowed.text);
            let [first, ..] = &mut arguments;
            *first = at.ok_or(RemoteCallError::NoStack { tid: self.tid })?.get();
        }
        let frame = borrowed.as_ref().map(|borrowed| &borrowed.frame);
        self.state.frame_at_return = frame.map(SignalFrame::stack_pointer_at_return);
        let own_stack = self.state.saved.general.stack_pointer();
        let stack = frame.map_or(own_stack, |frame| frame.address);
        let begun = self.set_off(instruction.at, stack, arguments, number as u64);
        let result = begun.and_then(|()| self.run_system_call());
        let result = self.finish(result);
        if let Some(BorrowedStack { frame, before, .. }) = borrowed {
            // Tried twice, as restoring a thread is: the call has been made, and must not seem to
            // have failed.
            let memory = Memory::new(&process);
            let put_back = memory.write(frame.address, &before);
            put_back.or_else(|_| memory.write(frame.address, &before))?;
        }
        decode_result(number, result?)
    }

    /// Writes a frame below the thread's own stack; `None` if there is no room. The stack of a
    /// coroutine may be a small piece of something else, so the bytes that were there are kept.
    fn borrow_stack(
        &self,
        restorer: TargetAddress,
        text: Option<&CStr>,
    ) -> Result<Option<BorrowedStack>> {
        let memory = Memory::new(self.process());
        let top = self.state.saved.general.stack_pointer() - RED_ZONE;
        let mut frame = self.frame(top, restorer)?;
        let text = text.and_then(|text| frame.carry(text.to_bytes_with_nul()));
        let length = frame.bytes.len() as u64;
        let before = match memory.read_bytes(frame.address, length, length) {
            Ok(before) => before,
            Err(MemoryError::Unmapped { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match memory.write(frame.address, &frame.bytes) {
            Ok(()) => Ok(Some(BorrowedStack {
                frame,
                before,
                text,
            })),
            Err(MemoryError::Unmapped { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Runs through the entry and the exit of one system call.
    fn run_system_call(&mut self) -> Result<u64> {
        let deadline = self.process().patience(SYSTEM_CALL_TIMEOUT);
        let mut handler = RequestHandler::of(None);
        self.run_to_system_call(&deadline, &mut handler)?;
        self.run_to_system_call(&deadline, &mut handler)?;
        let registers = self.check("read the registers of", ptrace::registers(self.tid))?;
        Ok(registers.rax)
    }
}

fn decode_result(number: i64, result: u64) -> Result<u64> {
    let signed = result as i64;
    match i32::try_from(signed.wrapping_neg()) {
        Ok(errno) if (-MAX_ERRNO..0).contains(&signed) => {
            Err(RemoteCallError::SystemCall { number, errno })
        }
        _ => Ok(result),
    }
}
