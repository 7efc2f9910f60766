//! Looking at threads through /proc, without stopping or waking any.
//!
//! Costs on a small machine: `stat` and `syscall` about 4 us each, `schedstat` 3 us, `status` 9-30
//! us.

use std::fmt;
use std::fs;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::process::foreign::escape_bytes;
use crate::process::limits::{BeyondLimit, THREADS};
use crate::sys::address::TargetAddress;
use crate::sys::time_slice::check_long_slice;

/// Flags of a kernel thread, of an io_uring worker and of other kernel threads that share a user
/// process (`include/linux/sched.h`; the last since Linux 6.4).
const PF_KTHREAD: u64 = 0x0020_0000;
const PF_IO_WORKER: u64 = 0x10;
const PF_USER_WORKER: u64 = 0x4000;

/// The state of a thread, as the scheduler has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// On a processor or waiting for one.
    Running,
    /// Asleep; a signal or a stop request wakes it.
    Sleeping,
    /// Asleep; only the event that it waits for wakes it (also a vfork parent).
    Uninterruptible,
    /// Stopped by a signal.
    Stopped,
    /// In a ptrace stop.
    Traced,
    /// Has ended, but is still listed.
    Dead,
}

/// One thread, as `/proc/PID/task/TID/stat` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskStat {
    /// What the thread is doing.
    pub state: TaskState,
    /// `PF_*` flags.
    flags: u64,
}

impl TaskStat {
    /// A thread of the kernel that never runs code of a program, for example an io_uring worker in
    /// the thread list of a user process.
    pub fn is_kernel_worker(&self) -> bool {
        self.flags & (PF_KTHREAD | PF_IO_WORKER | PF_USER_WORKER) != 0
    }

    /// A thread of the kernel itself.
    pub fn is_kernel_thread(&self) -> bool {
        self.flags & PF_KTHREAD != 0
    }
}

/// What a thread is doing, as `/proc/PID/task/TID/syscall` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// On a processor or about to be; nothing else is known.
    Running,
    /// Asleep in a system call.
    InSystemCall {
        /// The number of the call.
        number: u64,
        /// The thread's user stack pointer.
        stack_pointer: TargetAddress,
        /// Where the thread will continue in user mode.
        instruction_pointer: TargetAddress,
    },
    /// Asleep in the kernel, but not in a system call (a page fault, say).
    Blocked {
        /// The thread's user stack pointer.
        stack_pointer: TargetAddress,
        /// Where the thread will continue in user mode.
        instruction_pointer: TargetAddress,
    },
}

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running => f.write_str("on its way to a processor"),
            Self::InSystemCall {
                number,
                instruction_pointer,
                ..
            } => write!(
                f,
                "in system call {number}, called before {instruction_pointer}"
            ),
            Self::Blocked {
                instruction_pointer,
                ..
            } => write!(
                f,
                "in the kernel, which it entered at {instruction_pointer}"
            ),
        }
    }
}

/// `/proc/PID/task/TID/schedstat`. If two readings are equal, the thread did not run in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerCounters {
    /// Nanoseconds on a processor.
    pub running: u64,
    /// Nanoseconds of waiting for a processor.
    pub waiting: u64,
    /// How often the thread was put on a processor.
    pub slices: u64,
}

/// The fields of `/proc/PID/task/TID/status` that this crate needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TaskStatus {
    /// The process (thread group) to which the thread belongs.
    pub(crate) thread_group: i32,
    /// The process's number in its own pid namespace; 0 before Linux 4.1.
    pub(crate) pid_in_own_namespace: i32,
    /// The real user; `None` if the kernel does not say.
    pub(crate) real_user: Option<u32>,
    /// The thread's tracer, 0 if none.
    pub(crate) tracer: i32,
    /// 0 none, 1 strict, 2 filter.
    pub(crate) seccomp: u32,
    /// The process is writing a core dump.
    pub(crate) core_dumping: bool,
}

/// A thread's files under /proc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    pid: i32,
    tid: i32,
}

/// Turns the errors by which /proc says that a process or thread has ended into `None`.
pub(crate) fn or_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(error) => Err(error),
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(
        ErrorKind::InvalidData,
        format!("{what} has an unknown form"),
    )
}

fn hexadecimal(word: &str) -> Option<u64> {
    u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()
}

pub(super) fn parse_stat(text: &str) -> Option<TaskStat> {
    // The name in parentheses may itself contain spaces and parentheses: start after the last one.
    let (_, rest) = text.rsplit_once(')')?;
    let mut words = rest.split_ascii_whitespace();
    let state = match words.next()? {
        "R" => TaskState::Running,
        "D" => TaskState::Uninterruptible,
        "T" => TaskState::Stopped,
        "t" => TaskState::Traced,
        "Z" | "X" | "x" => TaskState::Dead,
        // S, I, P (parked), W, K: all wait for something and may be woken.
        _ => TaskState::Sleeping,
    };
    // state is field 3 of proc(5), flags field 9.
    let flags = words.nth(5)?.parse().ok()?;
    Some(TaskStat { state, flags })
}

pub(super) fn parse_activity(text: &str) -> Option<Activity> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    match words.as_slice() {
        ["running"] => Some(Activity::Running),
        ["-1", sp, ip] => Some(Activity::Blocked {
            stack_pointer: hexadecimal(sp)?.into(),
            instruction_pointer: hexadecimal(ip)?.into(),
        }),
        [number, _, _, _, _, _, _, sp, ip] => Some(Activity::InSystemCall {
            number: number.parse().ok()?,
            stack_pointer: hexadecimal(sp)?.into(),
            instruction_pointer: hexadecimal(ip)?.into(),
        }),
        _ => None,
    }
}

/// The entries of a directory of /proc that are numbers; `None` if the directory does not exist any
/// more.
fn numbers<T: FromStr>(path: &Path) -> io::Result<Option<Vec<T>>> {
    let Some(entries) = or_gone(fs::read_dir(path))? else {
        return Ok(None);
    };
    let mut numbers = Vec::new();
    for entry in entries {
        // The listing itself fails with ENOENT when the process ends under it.
        let Some(entry) = or_gone(entry)? else { break };
        let name = entry.file_name();
        numbers.extend(name.to_str().and_then(|name| name.parse::<T>().ok()));
    }
    Ok(Some(numbers))
}

pub(super) fn parse_file_size_limit(text: &str) -> Option<u64> {
    let mut lines = text.lines();
    let limits = lines.find_map(|line| line.strip_prefix("Max file size"))?;
    match limits.split_ascii_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        soft => soft.parse().ok(),
    }
}

pub(super) fn parse_status(text: &str) -> TaskStatus {
    let mut status = TaskStatus::default();
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.trim();
        match key {
            "NStgid" => {
                let innermost = value.split_ascii_whitespace().next_back();
                status.pid_in_own_namespace = innermost.and_then(|it| it.parse().ok()).unwrap_or(0);
            }
            "Tgid" => status.thread_group = value.parse().unwrap_or(0),
            "Uid" => {
                let real = value.split_ascii_whitespace().next();
                status.real_user = real.and_then(|it| it.parse().ok());
            }
            "TracerPid" => status.tracer = value.parse().unwrap_or(0),
            "Seccomp" => status.seccomp = value.parse().unwrap_or(0),
            "CoreDumping" => status.core_dumping = value == "1",
            _ => {}
        }
    }
    status
}

impl Task {
    /// The thread `tid` of the process `pid`.
    pub fn new(pid: i32, tid: i32) -> Self {
        Self { pid, tid }
    }

    /// The threads of a process, in no particular order; empty if the process has ended.
    ///
    /// # Errors
    /// What the system reports; a [`BeyondLimit`] inside if there are more than [`THREADS`].
    pub fn list(pid: i32) -> io::Result<Vec<i32>> {
        let tids = numbers(format!("/proc/{pid}/task").as_ref())?.unwrap_or_default();
        match tids.len() > THREADS {
            true => Err(io::Error::other(BeyondLimit {
                pid,
                what: "threads",
                limit: THREADS as u64,
            })),
            false => Ok(tids),
        }
    }

    /// A file of this thread.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/task/{}/{name}", self.pid, self.tid))
    }

    fn text(&self, name: &str) -> io::Result<Option<String>> {
        check_long_slice();
        // The kernel makes such a file at one read, and it fits in a page. fs::read would ask for
        // the size first and read again for the end, and we read these files for every thread while
        // threads wait.
        let mut page = [0; 4096];
        let read = fs::File::open(self.path(name)).and_then(|mut file| file.read(&mut page));
        let Some(length) = or_gone(read)? else {
            return Ok(None);
        };
        // A program may give itself a name that is not UTF-8.
        Ok(Some(String::from_utf8_lossy(&page[..length]).into_owned()))
    }

    /// The state of the thread; `None` if it has ended.
    ///
    /// # Errors
    /// What the system reports, or that the file has an unknown form.
    pub fn stat(&self) -> io::Result<Option<TaskStat>> {
        let Some(text) = self.text("stat")? else {
            return Ok(None);
        };
        parse_stat(&text).map(Some).ok_or_else(|| malformed("stat"))
    }

    /// Where the thread sleeps, if it does; `None` if it has ended.
    ///
    /// # Errors
    /// As [`Task::stat`].
    pub fn activity(&self) -> io::Result<Option<Activity>> {
        let Some(text) = self.text("syscall")? else {
            return Ok(None);
        };
        parse_activity(&text)
            .map(Some)
            .ok_or_else(|| malformed("syscall"))
    }

    /// The thread's scheduler counters; `None` if it has ended, or if the kernel does not count
    /// (`SCHED_INFO`).
    ///
    /// # Errors
    /// As [`Task::stat`].
    pub fn scheduler_counters(&self) -> io::Result<Option<SchedulerCounters>> {
        let Some(text) = self.text("schedstat")? else {
            return Ok(None);
        };
        let numbers: Vec<u64> = text
            .split_ascii_whitespace()
            .map_while(|word| word.parse().ok())
            .collect();
        match numbers.as_slice() {
            [0, 0, 0] => Ok(None),
            [running, waiting, slices] => Ok(Some(SchedulerCounters {
                running: *running,
                waiting: *waiting,
                slices: *slices,
            })),
            _ => Err(malformed("schedstat")),
        }
    }

    /// The name of the thread (`comm`), fit to be shown, if it still exists.
    pub fn name(&self) -> Option<String> {
        let name = std::fs::read(self.path("comm")).ok()?;
        Some(escape_bytes(name.strip_suffix(b"\n").unwrap_or(&name)))
    }

    /// The thread's status fields; `None` if it has ended.
    pub(crate) fn status(&self) -> io::Result<Option<TaskStatus>> {
        Ok(self.text("status")?.map(|text| parse_status(&text)))
    }

    /// The soft limit of the size of files that the thread may make, in bytes; `None` if it has
    /// ended.
    ///
    /// # Errors
    /// As [`Task::stat`].
    pub fn file_size_limit(&self) -> io::Result<Option<u64>> {
        let Some(text) = self.text("limits")? else {
            return Ok(None);
        };
        parse_file_size_limit(&text)
            .map(Some)
            .ok_or_else(|| malformed("limits"))
    }

    /// The numbers of the thread's open file descriptors; none if it has ended.
    ///
    /// # Errors
    /// What the system reports.
    pub fn descriptors(&self) -> io::Result<Vec<u64>> {
        Ok(numbers(&self.path("fd"))?.unwrap_or_default())
    }

    /// The file of a file descriptor, as /proc names it (`socket:[123]`); `None` if the descriptor
    /// is not open.
    ///
    /// # Errors
    /// What the system reports.
    pub fn descriptor(&self, number: u64) -> io::Result<Option<PathBuf>> {
        or_gone(fs::read_link(self.path(&format!("fd/{number}"))))
    }
}
