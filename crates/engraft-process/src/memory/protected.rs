//! Writing into pages that the program may only read.

use std::cell::RefCell;
use std::fs::File;
use std::marker::PhantomData;
use std::rc::Rc;

use crate::memory::access::Memory;
use crate::memory::access::MemoryError;
use crate::process::handle::Process;
use crate::sys::address::TargetAddress;
use crate::sys::ptrace;

/// Writes into read-only pages (program text), if need be through a stopped thread.
///
/// The writer borrows nothing, so it can be used while a thread is busy with a call of ours
/// ([`crate::StoppedThread::call_serving`]). ptrace belongs to one thread of ours, so the writer is
/// not `Send`. Writes through the thread fail after it has been resumed.
#[derive(Clone, Debug)]
pub struct ProtectedWriter {
    process: Process,
    tid: i32,
    /// The memory, opened once for all writers of one stop; if possible before threads wait for
    /// that.
    file: Rc<RefCell<Option<File>>>,
    _this_thread: PhantomData<*const ()>,
}

impl ProtectedWriter {
    pub(crate) fn new(process: &Process, tid: i32, file: &Rc<RefCell<Option<File>>>) -> Self {
        Self {
            process: process.clone(),
            tid,
            file: Rc::clone(file),
            _this_thread: PhantomData,
        }
    }

    /// Writes bytes, also where the pages are read-only. Falls back to ptrace where the kernel is
    /// told to refuse such writes through /proc (`proc_mem.force_override`, Linux 6.12).
    ///
    /// # Errors
    /// Any [`MemoryError`]; then a part may have been written.
    pub fn write(&self, address: TargetAddress, bytes: &[u8]) -> Result<(), MemoryError> {
        let file = &mut *self.file.borrow_mut();
        match Memory::new(&self.process).write_through(file, address, bytes) {
            Err(MemoryError::PermissionDenied { .. } | MemoryError::Unmapped { .. }) => {
                self.poke(address, bytes)
            }
            other => other,
        }
    }

    /// Writes by ptrace, which writes whole words: the bytes around are read and written back. The
    /// program must not write there meanwhile: either all threads are stopped, or the bytes are
    /// code.
    fn poke(&self, address: TargetAddress, bytes: &[u8]) -> Result<(), MemoryError> {
        let pid = self.process.pid();
        let first = address.align_down(8);
        let length = (address - first) + bytes.len() as u64;
        let length = length.next_multiple_of(8);
        let mut words = Memory::new(&self.process).read_bytes(first, length, length)?;
        let place = (address - first) as usize;
        if let Some(part) = words.get_mut(place..place + bytes.len()) {
            part.copy_from_slice(bytes);
        }
        for (index, word) in words.chunks_exact(8).enumerate() {
            let at = first + index as u64 * 8;
            ptrace::poke(self.tid, at, crate::memory::fields::word(word, 0)).map_err(|error| {
                if self.process.is_alive() {
                    MemoryError::System {
                        pid,
                        address: at,
                        source: error.into(),
                    }
                } else {
                    MemoryError::Gone { pid }
                }
            })?;
        }
        Ok(())
    }
}
