//! What can be done with a [`Process`], as its methods: the way into the folders above `process`.
//!
//! Nothing in the folders uses these methods, so none of them depends on what stands above it.

use std::io;
use std::ops::Range;
use std::time::Duration;

use crate::call::{gadgets, signal_frame};
use crate::elf::modules::{ModuleError, Modules};
use crate::memory::access::Memory;
use crate::memory::maps::{Maps, MapsError};
use crate::memory::resident;
use crate::process::handle::Process;
use crate::stop::borrowed_thread::BorrowedThread;
use crate::stop::stop_each;
use crate::stop::stopped::{SeizedProcess, StoppedProcess};
use crate::stop::stopped_thread::StoppedThread;
use crate::stop::stopped_threads::StoppedThreads;
use crate::sys::address::TargetAddress;
use crate::sys::signals::ignore_file_size_signal;
use crate::trace::stop_error::StopError;

/// Looking at memory. The process is not disturbed.
impl Process {
    /// The memory of the process.
    pub fn memory(&self) -> Memory<'_> {
        Memory::new(self)
    }

    /// The memory map, at this moment.
    ///
    /// # Errors
    /// Any [`MapsError`].
    pub fn maps(&self) -> Result<Maps, MapsError> {
        Maps::read(self)
    }

    /// The ELF files of which the process consists, at this moment.
    ///
    /// # Errors
    /// Any [`ModuleError`].
    pub fn modules(&self) -> Result<Modules, ModuleError> {
        Modules::discover(self)
    }

    /// How many bytes of these ranges are in memory: the pages that the process has touched.
    ///
    /// # Errors
    /// The ranges, which may come from the process itself, are too long in all, or cannot be looked
    /// at.
    pub fn resident_bytes(
        &self,
        ranges: impl IntoIterator<Item = Range<TargetAddress>>,
    ) -> io::Result<u64> {
        resident::resident_bytes(self, ranges)
    }
}

/// Stopping. On failure we have detached from everything.
impl Process {
    /// Becomes the tracer of all threads, without stopping any. Waits no longer than `timeout` for
    /// threads in an uninterruptible sleep, from which we could not detach again.
    ///
    /// # Errors
    /// Any [`StopError`].
    pub fn seize(&self, timeout: Duration) -> Result<SeizedProcess, StopError> {
        SeizedProcess::seize(self, timeout)
    }

    /// Stops all threads; waits for that no longer than `timeout`.
    ///
    /// # Errors
    /// Any [`StopError`].
    pub fn stop(&self, timeout: Duration) -> Result<StoppedProcess, StopError> {
        StoppedProcess::stop(self, timeout)
    }

    /// Stops just these threads; waits for that no longer than `timeout`. Those that have ended are
    /// left out.
    ///
    /// # Errors
    /// Any [`StopError`].
    pub fn stop_threads(
        &self,
        tids: &[i32],
        timeout: Duration,
    ) -> Result<StoppedThreads, StopError> {
        StoppedThreads::stop(self, tids, &self.patience(timeout))
    }

    /// Stops each of these threads, while all others run, and calls `look` with it. Threads that
    /// have ended are left out.
    ///
    /// # Errors
    /// The first one of `look`, or [`StopError::Gone`]: then the remaining threads are not looked
    /// at. If threads could not be stopped within `timeout`, the first such error, after all others
    /// were looked at.
    pub fn stop_each<E: From<StopError>>(
        &self,
        tids: &[i32],
        timeout: Duration,
        mut look: impl FnMut(&mut StoppedThread<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        stop_each::stop_each(self, tids, timeout, &mut look)
    }

    /// Stops one thread for remote calls: one that sleeps if there is one, and of these the one
    /// that has run least often, which is disturbed least.
    ///
    /// # Errors
    /// Any [`StopError`].
    pub fn borrow_thread(&self, timeout: Duration) -> Result<BorrowedThread, StopError> {
        BorrowedThread::borrow(self, timeout)
    }

    /// Finds now what a first remote call needs, so that it is not searched for in a stop. Also
    /// makes a limit of our own for the size of files (`ulimit -f`) an error of the write;
    /// otherwise it would end us.
    pub fn prepare_calls(&self) {
        ignore_file_size_signal();
        gadgets::borrowed_code(self);
        signal_frame::prepare();
    }
}
