//! The memory of a process, read and written in bulk.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use rustix::io::Errno;

use crate::process::handle::Process;
use crate::process::limits::{BeyondLimit, Budget};
use crate::sys::address::TargetAddress;
use crate::sys::effects::effect;
use crate::sys::time_slice::check_long_slice;
use crate::sys::vm;

/// Why memory could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The process has ended (or runs another program now).
    #[error("process {pid} has ended")]
    Gone {
        /// The process.
        pid: i32,
    },
    /// Nothing is mapped there, or the mapping may not be accessed in this way.
    #[error("process {pid} has no accessible memory at {address}")]
    Unmapped {
        /// The process.
        pid: i32,
        /// The first address that could not be accessed; everything before it was.
        address: TargetAddress,
    },
    /// The length is larger than it can be: it comes from damaged data.
    #[error("{length} bytes at {address} are more than the {limit} that can be right here")]
    TooMuch {
        /// The address.
        address: TargetAddress,
        /// The length in bytes.
        length: u64,
        /// The bound.
        limit: u64,
    },
    /// More than we read of one process.
    #[error(transparent)]
    Beyond(#[from] BeyondLimit),
    /// The command's time is up.
    #[error("process {pid} could not be looked at any longer: the time of {timeout:?} is up")]
    OutOfTime {
        /// The process.
        pid: i32,
        /// The time that the command had.
        timeout: Duration,
    },
    /// We may no longer access it.
    #[error("no permission to access the memory of process {pid}")]
    PermissionDenied {
        /// The process.
        pid: i32,
    },
    /// The system reports another error.
    #[error("failed to access memory of process {pid} at {address}: {source}")]
    System {
        /// The process.
        pid: i32,
        /// The address.
        address: TargetAddress,
        /// The error.
        source: io::Error,
    },
}

impl MemoryError {
    /// Whether reading ended early, because the process shows too much or takes too long.
    pub(crate) fn is_limit(&self) -> bool {
        matches!(self, Self::Beyond(_) | Self::OutOfTime { .. })
    }
}

/// The memory of a process. Concurrent changes by the process itself are seen as they happen.
#[derive(Clone, Copy, Debug)]
pub struct Memory<'p> {
    process: &'p Process,
    /// How much may be read, if that is limited.
    budget: Option<&'p Budget>,
}

/// The part of `ranges` that is still to be done after `done` bytes were transferred.
fn skip(ranges: &mut Vec<(TargetAddress, &mut [u8])>, mut done: usize) {
    let mut whole = 0;
    for (address, buffer) in ranges.iter_mut() {
        if done < buffer.len() {
            *address = *address + done as u64;
            *buffer = std::mem::take(buffer).get_mut(done..).unwrap_or_default();
            break;
        }
        done -= buffer.len();
        whole += 1;
    }
    ranges.drain(..whole);
}

fn errno(error: io::Error) -> Errno {
    match error.kind() {
        // The thread has ended: its directory does not exist any more, or its memory.
        io::ErrorKind::NotFound => Errno::SRCH,
        _ => Errno::from_io_error(&error).unwrap_or(Errno::IO),
    }
}

fn write_to_file(file: &File, address: TargetAddress, bytes: &[u8]) -> Result<usize, Errno> {
    match file.write_at(bytes, address.get()) {
        // The process has ended since the file was opened.
        Ok(0) => Err(Errno::SRCH),
        Ok(count) => Ok(count),
        Err(error) if error.raw_os_error() == Some(libc::EIO) => Err(Errno::FAULT),
        Err(error) => Err(errno(error)),
    }
}

impl<'p> Memory<'p> {
    pub(crate) fn new(process: &'p Process) -> Self {
        Self {
            process,
            budget: None,
        }
    }

    /// The same memory, of which no more than the budget is read.
    pub(crate) fn within(self, budget: &'p Budget) -> Self {
        Self {
            budget: Some(budget),
            ..self
        }
    }

    pub(crate) fn process(&self) -> &'p Process {
        self.process
    }

    /// Checks the time of the command.
    ///
    /// # Errors
    /// [`MemoryError::OutOfTime`] if the time is up.
    pub fn check_time(&self) -> Result<(), MemoryError> {
        let pid = self.process.pid();
        match self.process.out_of_time() {
            Some(timeout) => Err(MemoryError::OutOfTime { pid, timeout }),
            None => Ok(()),
        }
    }

    /// Whether `bytes` more may be read. Writing is never refused: it may restore what was there.
    fn may_read(&self, bytes: usize) -> Result<(), MemoryError> {
        check_long_slice();
        self.check_time()?;
        self.budget
            .map_or(Ok(()), |budget| Ok(budget.take(bytes as u64)?))
    }

    /// Fills the buffer from `address` on.
    ///
    /// # Errors
    /// Any [`MemoryError`].
    pub fn read(&self, address: TargetAddress, buffer: &mut [u8]) -> Result<(), MemoryError> {
        self.read_many(&mut [(address, buffer)])
    }

    /// Fills several buffers from several places, a thousand of them per system call.
    ///
    /// # Errors
    /// Any [`MemoryError`]; then some buffers may have been filled.
    pub fn read_many(&self, ranges: &mut [(TargetAddress, &mut [u8])]) -> Result<(), MemoryError> {
        for batch in ranges.chunks_mut(vm::MAX_RANGES) {
            self.may_read(batch.iter().map(|(_, buffer)| buffer.len()).sum())?;
            let mut todo: Vec<_> = batch
                .iter_mut()
                .map(|(at, buffer)| (*at, &mut **buffer))
                .collect();
            skip(&mut todo, 0);
            while let Some((at, _)) = todo.first() {
                let at = *at;
                let done = self.transfer(at, |tid| vm::read(tid, &mut todo))?;
                skip(&mut todo, done);
            }
        }
        Ok(())
    }

    /// Writes the bytes at `address`, where the program itself could.
    ///
    /// # Errors
    /// Any [`MemoryError`]; then a part may have been written.
    pub fn write(&self, address: TargetAddress, bytes: &[u8]) -> Result<(), MemoryError> {
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            let at = address + done as u64;
            done += self.transfer(at, |tid| effect(|| vm::write(tid, at, rest)))?;
        }
        Ok(())
    }

    /// Writes the bytes at `address`, also where the pages are read-only (program text).
    ///
    /// The kernel copies pages of a private file mapping first, as for a debugger's breakpoint.
    ///
    /// # Errors
    /// Any [`MemoryError`]; then a part may have been written. Linux 6.12 and later can be told to
    /// refuse such writes (`proc_mem.force_override`), with `PermissionDenied`: see
    /// [`crate::StoppedProcess::write_protected`].
    pub fn write_protected(&self, address: TargetAddress, bytes: &[u8]) -> Result<(), MemoryError> {
        self.write_through(&mut None, address, bytes)
    }

    /// Writes as [`Self::write_protected`] does, through a file that is opened at the first write,
    /// and kept. The file leads to the memory that the process had when it was opened, so keep it
    /// only while the process runs the same program.
    pub(crate) fn write_through(
        &self,
        file: &mut Option<File>,
        address: TargetAddress,
        bytes: &[u8],
    ) -> Result<(), MemoryError> {
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            let at = address + done as u64;
            done += self.transfer(at, |_| {
                let file = match file {
                    Some(file) => file,
                    None => file.insert(self.open_for_writing()?),
                };
                effect(|| write_to_file(file, at, rest))
            })?;
        }
        Ok(())
    }

    pub(crate) fn open_for_writing(&self) -> Result<File, Errno> {
        let path = self.process.memory_task().path("mem");
        OpenOptions::new().write(true).open(path).map_err(errno)
    }

    /// Makes one transfer; tries it through another thread if the one of the last transfer has
    /// ended.
    fn transfer(
        &self,
        at: TargetAddress,
        mut operation: impl FnMut(i32) -> Result<usize, Errno>,
    ) -> Result<usize, MemoryError> {
        let pid = self.process.pid();
        loop {
            // Another process may have got the number: the pidfd shows that.
            if !self.process.is_alive() {
                return Err(MemoryError::Gone { pid });
            }
            let tid = self.process.memory_tid();
            let error = match operation(tid) {
                Ok(0) => Errno::FAULT,
                Ok(count) => return Ok(count),
                Err(error) => error,
            };
            match error {
                Errno::INTR => {}
                Errno::SRCH => match self.process.find_memory_tid() {
                    // Another thread lives. Only another one, so the loop ends.
                    Some(other) if other != tid => {}
                    _ => return Err(MemoryError::Gone { pid }),
                },
                _ if !self.process.is_alive() => return Err(MemoryError::Gone { pid }),
                Errno::FAULT => return Err(MemoryError::Unmapped { pid, address: at }),
                Errno::PERM | Errno::ACCESS => return Err(MemoryError::PermissionDenied { pid }),
                other => {
                    return Err(MemoryError::System {
                        pid,
                        address: at,
                        source: other.into(),
                    });
                }
            }
        }
    }

    /// Reads `length` bytes, at most `limit`: a length that comes from the target must not make us
    /// allocate gigabytes.
    ///
    /// # Errors
    /// [`MemoryError::TooMuch`] if the length is beyond the limit, or any other [`MemoryError`].
    pub fn read_bytes(
        &self,
        address: TargetAddress,
        length: u64,
        limit: u64,
    ) -> Result<Vec<u8>, MemoryError> {
        let too_much = MemoryError::TooMuch {
            address,
            length,
            limit,
        };
        if length > limit {
            return Err(too_much);
        }
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| too_much)?];
        self.read(address, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads exactly `N` bytes.
    ///
    /// # Errors
    /// Any [`MemoryError`].
    pub fn read_array<const N: usize>(
        &self,
        address: TargetAddress,
    ) -> Result<[u8; N], MemoryError> {
        let mut bytes = [0; N];
        self.read(address, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads a word.
    ///
    /// # Errors
    /// Any [`MemoryError`].
    pub fn read_u64(&self, address: TargetAddress) -> Result<u64, MemoryError> {
        self.read_array(address).map(u64::from_le_bytes)
    }

    /// Reads a string up to its null byte, or `limit` bytes if these have none.
    ///
    /// # Errors
    /// Any [`MemoryError`].
    pub fn read_string(
        &self,
        address: TargetAddress,
        limit: usize,
    ) -> Result<Vec<u8>, MemoryError> {
        const STEP: u64 = 256;
        let mut text = Vec::new();
        let mut at = address;
        while text.len() < limit {
            // No piece crosses a page boundary: the string may end before a hole.
            let length = STEP - at.get() % STEP;
            let mut piece = vec![0; length as usize];
            self.read(at, &mut piece)?;
            let end = piece.iter().position(|byte| *byte == 0);
            text.extend_from_slice(&piece[..end.unwrap_or(piece.len())]);
            if end.is_some() {
                break;
            }
            at = at + length;
        }
        text.truncate(limit);
        Ok(text)
    }
}
