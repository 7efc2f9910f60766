//! A process that we trace, running or stopped, as types: what may be done is a method of the state.

use std::time::Duration;

use crate::address::TargetAddress;
use crate::deadline::Deadline;
use crate::gadgets::Gadgets;
use crate::memory::{Memory, MemoryError};
use crate::process::Process;
use crate::registers::Registers;
use crate::remote::RemoteCall;
use crate::remote_error::RemoteCallError;
use crate::remote_thread::Caller;
use crate::stop_error::StopError;
use crate::sys::ptrace;
use crate::task::TaskState;
use crate::tracees::{Condition, Tracee, Tracees};

/// A process all of whose threads we trace, and which runs.
///
/// A seized thread stands still at every signal and at every birth of a thread until that is
/// answered by [`SeizedProcess::service`]. So do not stay in this state without calling it.
/// Dropping it lets the process go.
///
/// ptrace belongs to one thread of ours, so this is not `Send`.
pub struct SeizedProcess {
    tracees: Tracees,
}

/// A process all of whose threads stand still. Dropping it lets the process go.
pub struct StoppedProcess {
    tracees: Tracees,
}

/// One thread that stands still while all others go on: enough to make calls in it. Dropping it lets it
/// go.
pub struct BorrowedThread {
    tracees: Tracees,
    tid: i32,
}

/// A thread that stands still.
#[derive(Clone, Copy, Debug)]
pub struct ThreadState {
    /// Its number.
    pub tid: i32,
    /// Its registers.
    pub registers: Registers,
    /// It was on a processor, or waited for one, when the stop began.
    pub was_running: bool,
    /// It shares the process, but never runs code of the program (an io_uring worker).
    pub is_kernel_worker: bool,
    /// It is the first thread of the process.
    pub is_first: bool,
    /// The process is stopped by SIGSTOP or the like, and stays so when we let it go.
    pub is_group_stopped: bool,
}

/// One thread of a stopped process, to be worked with.
pub struct StoppedThread<'s> {
    tracees: &'s mut Tracees,
    state: ThreadState,
}

impl Process {
    /// Becomes the tracer of all threads, without stopping any. Waits no longer than `timeout` for
    /// threads in an uninterruptible sleep: these could not be let go again.
    pub fn seize(&self, timeout: Duration) -> Result<SeizedProcess, StopError> {
        let deadline = Deadline::after(timeout);
        Tracees::seize(self, &deadline).map(|tracees| SeizedProcess { tracees })
    }

    /// Stops all threads; waits for that no longer than `timeout`. On failure everything is let go.
    pub fn stop(&self, timeout: Duration) -> Result<StoppedProcess, StopError> {
        let deadline = Deadline::after(timeout);
        let mut tracees = Tracees::seize(self, &deadline)?;
        tracees.stop(&deadline)?;
        Ok(StoppedProcess { tracees })
    }

    /// Stops one thread for remote calls, one that sleeps if there is one: it is the least disturbed.
    pub fn borrow_thread(&self, timeout: Duration) -> Result<BorrowedThread, StopError> {
        let system = |source| StopError::System {
            pid: self.pid(),
            operation: "list the threads",
            source,
        };
        let mut candidates = Vec::new();
        for tid in self.threads().map_err(system)? {
            let Some(stat) = self.task(tid).stat().map_err(system)? else {
                continue;
            };
            let order = match stat.state {
                TaskState::Sleeping => 0,
                TaskState::Running => 1,
                TaskState::Dead => continue,
                _ => 2,
            };
            if !stat.is_kernel_worker() {
                candidates.push((order, tid));
            }
        }
        candidates.sort_unstable();
        let deadline = Deadline::after(timeout);
        for (_, tid) in candidates {
            // It may end at any moment; then another one will do.
            let Some(mut tracees) = Tracees::seize_one(self, tid, &deadline)? else {
                continue;
            };
            match tracees.stop(&deadline) {
                Ok(()) => return Ok(BorrowedThread { tracees, tid }),
                Err(StopError::Gone { .. }) if self.is_alive() => {}
                Err(error) => return Err(error),
            }
        }
        Err(StopError::Gone { pid: self.pid() })
    }

    /// Finds now what a first remote system call will need, so that it is not searched for while
    /// the process stands still.
    pub fn prepare_calls(&self) {
        self.shared.gadgets.get_or_init(|| Gadgets::find(self));
    }
}

impl SeizedProcess {
    /// The process.
    pub fn process(&self) -> &Process {
        &self.tracees.process
    }

    /// Stops all threads, sleepers first, runners last; waits no longer than `timeout`.
    ///
    /// On failure everything is let go. Only a thread that fell into an uninterruptible sleep at the
    /// very last moment stays traced until this thread of ours ends: see [`on_tracer_thread`].
    pub fn stop(mut self, timeout: Duration) -> Result<StoppedProcess, StopError> {
        let deadline = Deadline::after(timeout);
        let tids: Vec<i32> = self.tracees.threads.keys().copied().collect();
        self.tracees.await_uninterruptible(&tids, &deadline)?;
        self.tracees.stop(&deadline)?;
        Ok(StoppedProcess {
            tracees: self.tracees,
        })
    }

    /// Answers what has happened since the last time: delivers signals, takes on new threads.
    pub fn service(&mut self) -> Result<(), StopError> {
        self.tracees.service()
    }

    /// Lets the process go. Every thread must be stopped for a moment for that; detaching a
    /// [`StoppedProcess`] is better.
    pub fn detach(mut self) -> Result<(), StopError> {
        self.tracees.release()
    }
}

impl StoppedProcess {
    /// The process.
    pub fn process(&self) -> &Process {
        &self.tracees.process
    }

    /// Its memory.
    pub fn memory(&self) -> Memory<'_> {
        self.tracees.process.memory()
    }

    /// All its threads.
    pub fn threads(&self) -> impl Iterator<Item = ThreadState> {
        let pid = self.tracees.pid();
        self.tracees
            .threads
            .iter()
            .filter_map(move |(tid, tracee)| state(pid, *tid, tracee))
    }

    /// One of its threads.
    pub fn thread(&mut self, tid: i32) -> Option<StoppedThread<'_>> {
        let state = self.threads().find(|thread| thread.tid == tid)?;
        Some(StoppedThread {
            tracees: &mut self.tracees,
            state,
        })
    }

    /// The thread that is best suited for remote calls: one that runs code of the program, the
    /// first one if possible, whose stack is known to have room.
    pub fn calling_thread(&mut self) -> Option<StoppedThread<'_>> {
        let usable = |thread: &ThreadState| !thread.is_kernel_worker;
        let best = self
            .threads()
            .filter(usable)
            .min_by_key(|thread| !thread.is_first)?;
        self.thread(best.tid)
    }

    /// Writes bytes, also where the pages are read-only. Falls back to ptrace where the kernel is told
    /// to refuse such writes through /proc (`proc_mem.force_override`, Linux 6.12).
    pub fn write_protected(&self, address: TargetAddress, bytes: &[u8]) -> Result<(), MemoryError> {
        match self.memory().write_protected(address, bytes) {
            Err(MemoryError::PermissionDenied { .. } | MemoryError::Unmapped { .. }) => {
                self.poke(address, bytes)
            }
            other => other,
        }
    }

    fn poke(&self, address: TargetAddress, bytes: &[u8]) -> Result<(), MemoryError> {
        let pid = self.tracees.pid();
        let Some(tid) = self.tracees.threads.keys().next() else {
            return Err(MemoryError::Gone { pid });
        };
        // Whole words only: what is around the bytes is read and written back. All stand still.
        let first = address.align_down(8);
        let length = (address - first) + bytes.len() as u64;
        let length = length.next_multiple_of(8);
        let mut words = self.memory().read_bytes(first, length, length)?;
        let place = (address - first) as usize;
        if let Some(part) = words.get_mut(place..place + bytes.len()) {
            part.copy_from_slice(bytes);
        }
        for (index, word) in words.chunks_exact(8).enumerate() {
            let at = first + index as u64 * 8;
            ptrace::poke(*tid, at, crate::elf::word(word, 0)).map_err(|error| {
                if self.process().is_alive() {
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

    /// Lets all threads go on, runners first, still traced.
    pub fn resume(mut self) -> Result<SeizedProcess, StopError> {
        self.tracees.resume()?;
        Ok(SeizedProcess {
            tracees: self.tracees,
        })
    }

    /// Lets the process go, runners first.
    pub fn detach(mut self) -> Result<(), StopError> {
        self.tracees.release()?;
        if self.tracees.process.is_alive() {
            Ok(())
        } else {
            Err(self.tracees.gone())
        }
    }
}

impl BorrowedThread {
    /// The thread, to be worked with; `None` if it has been killed.
    pub fn thread(&mut self) -> Option<StoppedThread<'_>> {
        let tracee = self.tracees.threads.get(&self.tid)?;
        let state = state(self.tracees.pid(), self.tid, tracee)?;
        Some(StoppedThread {
            tracees: &mut self.tracees,
            state,
        })
    }

    /// Lets the thread go.
    pub fn detach(mut self) -> Result<(), StopError> {
        self.tracees.release()
    }
}

impl StoppedThread<'_> {
    /// The process that it belongs to.
    pub fn process(&self) -> &Process {
        &self.tracees.process
    }

    /// Its state.
    pub fn state(&self) -> &ThreadState {
        &self.state
    }

    /// Its general registers.
    pub fn registers(&self) -> &Registers {
        &self.state.registers
    }

    /// Its x87, SSE, AVX, ... state, in the XSAVE format.
    pub fn extended_state(&self) -> Result<Vec<u8>, StopError> {
        let state = ptrace::extended_state(self.state.tid);
        state.map_err(|error| self.tracees.system("read the extended state", error))
    }

    /// Replaces its general registers. It goes on with these when it is let go.
    pub fn set_registers(&mut self, registers: &Registers) -> Result<(), StopError> {
        let result = ptrace::set_registers(self.state.tid, registers);
        result.map_err(|error| self.tracees.system("set the registers", error))?;
        if let Some(tracee) = self.tracees.threads.get_mut(&self.state.tid) {
            tracee.registers = *registers;
        }
        self.state.registers = *registers;
        Ok(())
    }

    /// Calls a function in this thread; the result is what it returns. All other threads stand still
    /// meanwhile. Whatever comes of it, the thread is then as it was before.
    pub fn call(&mut self, call: &RemoteCall) -> Result<u64, RemoteCallError> {
        Caller::new(self.tracees, self.state.tid)?.call(call)
    }

    /// Makes a system call in this thread; an error number is [`RemoteCallError::SystemCall`].
    pub fn system_call(
        &mut self,
        number: i64,
        arguments: [u64; 6],
    ) -> Result<u64, RemoteCallError> {
        Caller::new(self.tracees, self.state.tid)?.system_call(number, arguments)
    }
}

/// Runs `work` on a thread of its own, which is the tracer of whatever it traces. When it ends, the
/// kernel lets go of everything that is still traced, even of a thread in an uninterruptible sleep.
pub fn on_tracer_thread<R: Send>(work: impl FnOnce() -> R + Send) -> std::thread::Result<R> {
    std::thread::scope(|scope| scope.spawn(work).join())
}

impl std::fmt::Debug for BorrowedThread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("BorrowedThread").field(&self.tid).finish()
    }
}

fn state(pid: i32, tid: i32, tracee: &Tracee) -> Option<ThreadState> {
    let Condition::Stopped { group } = tracee.condition else {
        return None;
    };
    Some(ThreadState {
        tid,
        registers: tracee.registers,
        was_running: tracee.was_running,
        is_kernel_worker: tracee.is_kernel_worker,
        is_first: tid == pid,
        is_group_stopped: group,
    })
}

impl std::fmt::Debug for SeizedProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SeizedProcess")
            .field(&self.tracees.pid())
            .finish()
    }
}

impl std::fmt::Debug for StoppedProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("StoppedProcess")
            .field(&self.tracees.pid())
            .finish()
    }
}
