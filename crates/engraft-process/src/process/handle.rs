//! A running process, opened.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::process::auxv::{AuxiliaryVector, WordSize};
use crate::process::borrowed_code::BorrowedCode;
use crate::process::interrupted_calls::InterruptedCalls;
use crate::process::open_error::OpenError;
use crate::process::task::{Task, TaskState, or_gone};
use crate::process::time_limit::TimeLimit;
use crate::process::wake_rate::WakeRates;

/// What all clones of a handle share.
pub(super) struct Shared {
    pid: i32,
    pidfd: OwnedFd,
    /// A thread through which the memory is reached. Not always the first thread: that may have
    /// ended while others live, and then has no memory.
    memory_tid: AtomicI32,
    /// The call thread: that in which calls were made last. 0 if there is none.
    call_tid: AtomicI32,
    /// A thread that made a call had to wait for a processor.
    is_crowded: AtomicBool,
    /// The owner of the shared lock is not a controller.
    pub(super) ignores_shared_lock: AtomicBool,
    pub(super) wake_rates: WakeRates,
    pub(super) interrupted_calls: InterruptedCalls,
    pub(super) borrowed_code: OnceLock<BorrowedCode>,
    /// The auxiliary vector of the program that ran when the process was opened.
    pub(super) started_as: OnceLock<AuxiliaryVector>,
    pub(super) time_limit: TimeLimit,
}

/// A running process. Cheap to clone; all clones are the same handle.
///
/// The handle has a pidfd, so the end of the process and the reuse of its number are noticed.
#[derive(Clone)]
pub struct Process {
    pub(super) shared: Arc<Shared>,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Process").field(&self.shared.pid).finish()
    }
}

/// The zero timeout of a poll that only looks.
const AT_ONCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// How long a process may show no memory, or no complete auxiliary vector. In an exec there is such
/// a moment: the kernel fills the vector of the new program entry by entry, and a thread that is
/// not the first one takes the first one's place only after that has ended.
const BETWEEN_PROGRAMS: Duration = Duration::from_secs(1);

fn open_pidfd(pid: i32) -> Result<OwnedFd, OpenError> {
    let gone = || OpenError::NoSuchProcess { pid };
    if pid <= 0 {
        return Err(gone());
    }
    let number = Pid::from_raw(pid).ok_or_else(gone)?;
    match pidfd_open(number, PidfdFlags::empty()) {
        Ok(pidfd) => Ok(pidfd),
        Err(Errno::SRCH) => Err(gone()),
        // "Not a thread group leader": EINVAL before Linux 6.9, ENOENT since.
        Err(error @ (Errno::INVAL | Errno::NOENT)) => match Task::new(pid, pid).status() {
            Ok(Some(status)) if status.thread_group != pid => Err(OpenError::NotAProcess {
                pid,
                process: status.thread_group,
            }),
            _ => Err(OpenError::System {
                pid,
                source: error.into(),
            }),
        },
        Err(error) => Err(OpenError::System {
            pid,
            source: error.into(),
        }),
    }
}

impl Process {
    /// Opens a process, to look at it and to stop it later. Does not disturb the process.
    ///
    /// # Errors
    /// Any [`OpenError`].
    pub fn open(pid: i32) -> Result<Self, OpenError> {
        if u32::try_from(pid) == Ok(std::process::id()) {
            return Err(OpenError::Ourselves { pid });
        }
        let process = Self {
            shared: Arc::new(Shared {
                pid,
                pidfd: open_pidfd(pid)?,
                memory_tid: AtomicI32::new(pid),
                call_tid: AtomicI32::new(0),
                is_crowded: AtomicBool::new(false),
                ignores_shared_lock: AtomicBool::new(false),
                wake_rates: WakeRates::default(),
                interrupted_calls: InterruptedCalls::default(),
                borrowed_code: OnceLock::new(),
                started_as: OnceLock::new(),
                time_limit: TimeLimit::default(),
            }),
        };
        let started = Instant::now();
        loop {
            let checked = process.check();
            let patience = match &checked {
                Err(
                    OpenError::NoSuchProcess { .. }
                    | OpenError::Zombie { .. }
                    | OpenError::Starting { .. },
                ) => BETWEEN_PROGRAMS,
                _ => Duration::ZERO,
            };
            if started.elapsed() >= patience || !process.is_alive() {
                return checked.map(|()| process);
            }
            std::thread::yield_now();
        }
    }

    /// Whether the process can be worked with.
    fn check(&self) -> Result<(), OpenError> {
        let pid = self.pid();
        let system = |source| OpenError::System { pid, source };
        let gone = OpenError::NoSuchProcess { pid };
        // A thread's number names the process in /proc too, but pidfd_open has refused these.
        let stat = Task::new(pid, pid).stat().map_err(system)?.ok_or(gone)?;
        if stat.is_kernel_thread() {
            return Err(OpenError::KernelThread { pid });
        }
        if stat.state == TaskState::Dead && self.find_memory_tid().is_none() {
            return Err(OpenError::Zombie { pid });
        }
        self.check_permission()?;
        self.check_architecture()
    }

    /// The kernel lets us open `/proc/PID/mem` by the same rule as ptrace (`PTRACE_MODE_ATTACH`),
    /// and opening it has no effect on the process.
    fn check_permission(&self) -> Result<(), OpenError> {
        let pid = self.pid();
        match or_gone(File::open(self.memory_task().path("mem"))) {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(OpenError::NoSuchProcess { pid }),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(OpenError::PermissionDenied { pid })
            }
            Err(_) if !self.is_alive() => Err(OpenError::NoSuchProcess { pid }),
            Err(source) => Err(OpenError::System { pid, source }),
        }
    }

    /// A 64-bit program has an auxiliary vector of 64-bit words that announces program headers of
    /// 56 bytes. So the program's file is not needed, which we may not be able to see.
    fn check_architecture(&self) -> Result<(), OpenError> {
        let pid = self.pid();
        let vector = match self.auxiliary_vector() {
            Ok(Some(vector)) => vector,
            Ok(None) => return Err(OpenError::NoSuchProcess { pid }),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(OpenError::PermissionDenied { pid });
            }
            Err(_) if !self.is_alive() => return Err(OpenError::NoSuchProcess { pid }),
            Err(source) => return Err(OpenError::System { pid, source }),
        };
        match vector.word_size() {
            Some(WordSize::Bits64) => {
                self.shared.started_as.get_or_init(|| vector);
                Ok(())
            }
            _ if !self.is_alive() => Err(OpenError::NoSuchProcess { pid }),
            Some(WordSize::Other) => Err(OpenError::ForeignArchitecture { pid }),
            None => Err(OpenError::Starting { pid }),
        }
    }

    /// The number of the process.
    pub fn pid(&self) -> i32 {
        self.shared.pid
    }

    /// The number of the process in its own pid namespace; `None` if the kernel does not say.
    pub fn pid_in_own_namespace(&self) -> Option<i32> {
        let status = self.memory_task().status().ok().flatten()?;
        let pid = status.pid_in_own_namespace;
        (pid != 0).then_some(pid)
    }

    /// Whether the process lives. A zombie does not.
    pub fn is_alive(&self) -> bool {
        !self.ended_within(AT_ONCE)
    }

    /// Waits until the process ends, but not longer than `timeout`; says whether it has ended.
    pub fn wait_for_end(&self, timeout: Duration) -> bool {
        let timeout = Timespec {
            tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        self.ended_within(timeout)
    }

    fn ended_within(&self, timeout: Timespec) -> bool {
        let mut descriptors = [PollFd::new(&self.shared.pidfd, PollFlags::IN)];
        // A pidfd becomes readable when the last thread has ended. An interrupted poll counts as
        // not ended: every caller looks again.
        matches!(poll(&mut descriptors, Some(&timeout)), Ok(1..))
    }

    /// The numbers of the process's threads, at this moment; empty if the process has ended.
    ///
    /// # Errors
    /// What the system reports, or that there are more than [`THREADS`](crate::limits::THREADS).
    pub fn threads(&self) -> io::Result<Vec<i32>> {
        if !self.is_alive() {
            return Ok(Vec::new());
        }
        Task::list(self.pid())
    }

    /// Whether any thread has a seccomp filter, at this moment.
    ///
    /// # Errors
    /// What the system reports.
    pub fn has_filter(&self) -> io::Result<bool> {
        for tid in self.threads()? {
            let status = self.task(tid).status()?;
            if status.is_some_and(|status| status.seccomp != 0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A view of one thread, which does not disturb the thread.
    pub fn task(&self, tid: i32) -> Task {
        Task::new(self.pid(), tid)
    }

    /// The auxiliary vector; `None` if the process has ended, or is about to: a killed process
    /// loses its memory before its threads.
    pub(crate) fn auxiliary_vector(&self) -> io::Result<Option<AuxiliaryVector>> {
        // The kernel keeps it: a few hundred bytes.
        let bytes = or_gone(fs::read(self.memory_task().path("auxv")))?;
        let bytes = bytes.filter(|bytes| !bytes.is_empty());
        Ok(bytes.map(|bytes| AuxiliaryVector::parse(&bytes)))
    }

    /// A thread that had not ended when we last looked.
    pub fn living_task(&self) -> Task {
        self.memory_task()
    }

    /// The thread through which the memory is reached.
    pub(crate) fn memory_task(&self) -> Task {
        // ORDERING: a hint that stands for itself; a reader of an old value finds that thread dead
        // and looks for another one.
        self.task(self.memory_tid())
    }

    pub(crate) fn memory_tid(&self) -> i32 {
        // ORDERING: as in `memory_task`.
        self.shared.memory_tid.load(Ordering::Relaxed)
    }

    /// Finds a thread that has not ended; `None` when all have.
    pub(crate) fn find_memory_tid(&self) -> Option<i32> {
        if !self.is_alive() {
            return None;
        }
        let lives = |tid: &i32| {
            let stat = self.task(*tid).stat();
            matches!(stat, Ok(Some(stat)) if stat.state != TaskState::Dead)
        };
        let tid = Task::list(self.pid()).ok()?.into_iter().find(lives)?;
        // ORDERING: as in `memory_task`.
        self.shared.memory_tid.store(tid, Ordering::Relaxed);
        Some(tid)
    }

    /// The thread in which calls were made last.
    pub(crate) fn call_thread(&self) -> Option<i32> {
        // ORDERING: a hint that stands for itself.
        let tid = self.shared.call_tid.load(Ordering::Relaxed);
        (tid != 0).then_some(tid)
    }

    pub(crate) fn is_call_thread(&self, tid: i32) -> bool {
        self.call_thread() == Some(tid)
    }

    pub(crate) fn set_call_thread(&self, tid: i32) {
        // ORDERING: as in `call_thread`.
        self.shared.call_tid.store(tid, Ordering::Relaxed);
    }

    /// Whether a thread that made a call had to wait for a processor.
    pub(crate) fn is_crowded(&self) -> bool {
        // ORDERING: a hint that stands for itself.
        self.shared.is_crowded.load(Ordering::Relaxed)
    }

    pub(crate) fn note_crowded(&self) {
        // ORDERING: as in `is_crowded`.
        self.shared.is_crowded.store(true, Ordering::Relaxed);
    }
}
