//! Errors in the user's terms. The exit code of each is in [`exit_code`], the hint in
//! [`Error::hint`].
//!
//! This folder must not know where an error comes from: everything else in the crate stands on it.

pub mod exit_code;
pub(crate) mod explain;
mod hint;
mod parts;
mod reasons;

pub use parts::{BadBlob, TooLarge};
pub use reasons::{BlockReason, Reference, Suspended};

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use engraft_abi::Outcome;
use engraft_process::{
    BeyondLimit, ExecutableError, MapsError, MemoryError, MemoryScanError, ModuleError, OpenError,
    Process, RemoteCallError, StopError, TargetAddress,
};

/// Why a command failed. Unless the text says otherwise, the target runs on as before.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A file could not be read.
    #[error("failed to read {}: {source}", path.display())]
    ReadFile {
        /// Its path.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("failed to write {}: {source}", path.display())]
    WriteFile {
        /// Its path.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is not a usable patch file.
    #[error("{}: {source}", path.display())]
    PatchFile {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        source: engraft_patch::ReadError,
    },
    /// No patch was built.
    #[error(transparent)]
    Build(#[from] engraft_build::BuildError),
    /// The patch is too large for the agent.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// The process has another build of an object.
    #[error(
        "process {pid} runs another build of {file_name}: {path} has build-id {found}, the patch is for {expected}"
    )]
    WrongBuildId {
        /// The process.
        pid: i32,
        /// The object.
        file_name: String,
        /// The path of the module.
        path: String,
        /// The module's build-id.
        found: String,
        /// The build-id that the patch was made for.
        expected: String,
    },
    /// The process has loaded no object of the patch, and cannot load one that the agent would
    /// notice.
    #[error(
        "nothing to patch in process {pid}: it has loaded none of {}, and runs a static program, which no library \
         that comes later is seen in",
        objects.join(", ")
    )]
    NothingToPatch {
        /// The process.
        pid: i32,
        /// The objects of the patch.
        objects: Vec<String>,
    },
    /// A thread did not leave the code that is to be replaced or removed.
    #[error(
        "thread {tid} ({thread_name}) of process {pid} {reason} function '{function}' {}{}",
        at_each(*looks, *timeout),
        frame.as_ref().map(|frame| format!(" (in the end: {frame})")).unwrap_or_default()
    )]
    ThreadInside {
        /// The process.
        pid: i32,
        /// The thread.
        tid: i32,
        /// Its name.
        thread_name: String,
        /// Why it blocks the change.
        reason: BlockReason,
        /// The function.
        function: String,
        /// Where it is in the function, in words.
        frame: Option<String>,
        /// How often it was checked. It may have been elsewhere between two checks.
        looks: usize,
        /// How long it was tried.
        timeout: Duration,
    },
    /// Threads did not leave the code that is to be replaced. All other threads have switched.
    #[error(
        "patch '{name}' is still being {} in process {pid}: {waiting} {} to switch{}{}",
        if *to_patched { "enabled" } else { "disabled" },
        if *waiting == 1 { "thread has yet" } else { "threads have yet" },
        describe_next_call(*waiting, *at_next_call),
        inside.as_ref().map(|inside| format!("; {inside}")).unwrap_or_default()
    )]
    InTransition {
        /// The process.
        pid: i32,
        /// The patch.
        name: String,
        /// Whether it is being enabled.
        to_patched: bool,
        /// How many threads have yet to switch.
        waiting: usize,
        /// How many of them switch by themselves when they next call a function that the patch
        /// replaces. A controller has to see the others outside.
        at_next_call: usize,
        /// Why the first of them has not: an [`Error::ThreadInside`]. `None` if that is not known.
        inside: Option<Box<Self>>,
    },
    /// The program has mapped something else where memory was mapped for the agent.
    #[error(
        "process {pid} has put something else in the place of the memory that was mapped for the agent"
    )]
    MemoryReplaced {
        /// The process.
        pid: i32,
    },
    /// Memory of an agent is still there after the agent was removed.
    #[error("{}-{} in process {pid} is still memory of an agent that was removed", range.start, range.end)]
    MemoryLeft {
        /// The process.
        pid: i32,
        /// The memory.
        range: Range<TargetAddress>,
    },
    /// A memory file of an agent is still open after it was closed.
    #[error(
        "descriptor {descriptor} of process {pid} is still the memory file of an agent that was removed"
    )]
    FileLeft {
        /// The process.
        pid: i32,
        /// The descriptor.
        descriptor: u64,
    },
    /// There is too much memory that looks like what an injection has left.
    #[error(
        "process {pid} has more memory that looks like an agent's than could be taken away within {timeout:?}"
    )]
    TooManyLeftovers {
        /// The process.
        pid: i32,
        /// How long it was tried.
        timeout: Duration,
    },
    /// The transition of another patch is open, and was not completed in time. A process has one
    /// transition at a time.
    #[error("patch '{name}' has to wait: {source}")]
    OtherTransition {
        /// The patch.
        name: String,
        /// The open transition: an [`Error::InTransition`].
        source: Box<Self>,
    },
    /// Threads had yet to switch to a patch when the time was up, so its transition was reversed.
    #[error(
        "{source}; {}",
        match unfinished {
            None => "it was taken back: every thread runs the code from before".to_owned(),
            Some(unfinished) => format!("taking it back is not over: {unfinished}"),
        }
    )]
    Reversed {
        /// The transition when the time was up: an [`Error::InTransition`].
        source: Box<Self>,
        /// Why the reversed transition is not complete; `None` if it is.
        unfinished: Option<Box<Self>>,
    },
    /// Another controller is at work.
    #[error("another engraft was at work on process {pid} for more than {timeout:?}")]
    AnotherController {
        /// The process.
        pid: i32,
        /// How long it was tried.
        timeout: Duration,
    },
    /// A change failed, and so did undoing it.
    #[error("{source}; and it could not be undone: {undo}")]
    NotUndone {
        /// Why the change failed.
        source: Box<Self>,
        /// Why undoing failed.
        undo: Box<Self>,
    },
    /// The process has no memory for the change, because its address space is limited.
    #[error(
        "{source}: the address space of process {pid} is limited to {limit} bytes (RLIMIT_AS, `ulimit -v`)"
    )]
    AddressSpace {
        /// The process.
        pid: i32,
        /// The limit in bytes.
        limit: u64,
        /// What failed.
        source: Box<Self>,
    },
    /// No transition is open.
    #[error("no patch{} is in transition in process {pid}", named(name))]
    NotInTransition {
        /// The process.
        pid: i32,
        /// The patch that was asked for, if one was.
        name: Option<String>,
    },
    /// A thread holds an address in memory that is to be removed.
    #[error(
        "thread {tid} ({thread_name}) of process {pid} {reference} the memory of patch '{name}' at the last of {looks} looks in {timeout:?}"
    )]
    ThreadRefers {
        /// The process.
        pid: i32,
        /// The thread.
        tid: i32,
        /// Its name.
        thread_name: String,
        /// The patch.
        name: String,
        /// Where the address is.
        reference: Reference,
        /// How often we looked.
        looks: usize,
        /// How long it was tried.
        timeout: Duration,
    },
    /// A suspended context holds an address in memory that is to be removed, or may hold one.
    #[error(
        "{suspended}, and leads into the memory of patch '{name}' of process {pid} for more than {timeout:?}"
    )]
    ContextRefers {
        /// The process.
        pid: i32,
        /// The patch.
        name: String,
        /// Where the address is.
        suspended: Box<Suspended>,
        /// How long it was tried.
        timeout: Duration,
    },
    /// Memory could not be scanned for suspended contexts.
    #[error(transparent)]
    MemoryScan(#[from] MemoryScanError),
    /// An enabled patch cannot be removed.
    #[error("patch '{name}' is enabled in process {pid} and cannot be removed")]
    StillEnabled {
        /// The process.
        pid: i32,
        /// The patch.
        name: String,
    },
    /// An agent with patches cannot be removed.
    #[error("the agent of process {pid} has patches: {}", names.join(", "))]
    PatchesLeft {
        /// The process.
        pid: i32,
        /// The patches.
        names: Vec<String>,
    },
    /// No process was selected.
    #[error("no process {wanted}")]
    NoneSelected {
        /// What a process would have to do or have to be selected.
        wanted: String,
    },
    /// No process has the patch.
    #[error("no process {wanted}")]
    NonePatched {
        /// What a process would have to do or have to be selected.
        wanted: String,
    },
    /// The command failed in some of several processes. Each failure was reported by itself.
    #[error(
        "failed in {} of {of} processes: {}", failed.len(),
        failed.iter().map(i32::to_string).collect::<Vec<_>>().join(", ")
    )]
    SomeFailed {
        /// Their pids.
        failed: Vec<i32>,
        /// The number of all processes.
        of: usize,
        /// The exit code of the first failure.
        exit_code: u8,
    },
    /// Threads loaded or unloaded libraries all the time.
    #[error("process {pid} was loading or unloading libraries for more than {timeout:?}")]
    LoaderBusy {
        /// The process.
        pid: i32,
        /// How long it was tried.
        timeout: Duration,
    },
    /// The agent refused or failed to carry out a command.
    #[error("process {pid}: {text}")]
    Agent {
        /// The process.
        pid: i32,
        /// The kind of failure.
        outcome: Outcome,
        /// The agent's reason, in words.
        text: String,
    },
    /// An agent of another version is in the process.
    #[error(
        "process {pid} has an agent of version {found}, this engraft talks to version {expected}"
    )]
    AgentVersion {
        /// The process.
        pid: i32,
        /// Its version.
        found: u64,
        /// The version that this engraft understands.
        expected: u64,
    },
    /// The agent returned something that no agent of this version returns.
    #[error("the agent in process {pid} gave an answer that makes no sense ({answer:#x})")]
    BadAnswer {
        /// The process.
        pid: i32,
        /// What it returned.
        answer: u64,
    },
    /// The agent's snapshot of its own state contradicts itself.
    #[error("the agent in process {pid} describes its state in a way that makes no sense")]
    BadSnapshot {
        /// The process.
        pid: i32,
    },
    /// No thread can run the agent's code.
    #[error("process {pid} has no thread that could run the agent's code")]
    NoThread {
        /// The process.
        pid: i32,
    },
    /// The process has no main program with program headers.
    #[error("process {pid} has no main program that could be recognised")]
    NoProgram {
        /// The process.
        pid: i32,
    },
    /// A process has more of something than is read of one process.
    #[error(transparent)]
    Beyond(#[from] BeyondLimit),
    /// There is no room for the agent.
    #[error("process {pid} has no room for the agent near its dynamic loader")]
    NoRoom {
        /// The process.
        pid: i32,
    },
    /// The process could not be stopped or let go.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// A call in the target failed.
    #[error(transparent)]
    RemoteCall(#[from] RemoteCallError),
    /// The target's memory could not be accessed.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The target's memory map could not be read.
    #[error(transparent)]
    Maps(#[from] MapsError),
    /// The target's modules could not be found.
    #[error(transparent)]
    Modules(#[from] ModuleError),
    /// This build of engraft is broken.
    #[error(transparent)]
    Blob(#[from] BadBlob),
}

impl From<ExecutableError> for Error {
    fn from(error: ExecutableError) -> Self {
        match error {
            ExecutableError::Read { path, source } => Self::ReadFile { path, source },
            ExecutableError::Ended(error) => error.into(),
            ExecutableError::Modules(error) => error.into(),
        }
    }
}

fn named(name: &Option<String>) -> String {
    name.as_ref()
        .map(|name| format!(" '{name}'"))
        .unwrap_or_default()
}

/// How many of the threads that have yet to switch do so by themselves.
fn describe_next_call(waiting: usize, at_next_call: usize) -> String {
    match at_next_call {
        0 => String::new(),
        count if count < waiting => format!(", {count} of them by themselves at their next call"),
        1 => ", by itself at its next call".to_owned(),
        _ => ", each by itself at its next call".to_owned(),
    }
}

/// How often, and for how long, a thread was checked. What it did between two checks is not known.
fn at_each(looks: usize, timeout: Duration) -> String {
    match looks {
        0 | 1 => format!("when it was looked at, after {timeout:?}"),
        looks => format!("at each of {looks} looks in {timeout:?}"),
    }
}

/// Whether a command with this outcome may succeed a moment later.
pub(crate) fn is_busy(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Busy | Outcome::LoaderBusy)
}

impl Error {
    /// Makes an error of the system's error in reading about a process.
    pub(crate) fn reading(process: &Process) -> impl FnOnce(std::io::Error) -> Self {
        let pid = process.pid();
        move |source| match source.downcast::<BeyondLimit>() {
            Ok(beyond) => beyond.into(),
            // The process is ending: its files in /proc tell that before it has ended.
            Err(source) if source.raw_os_error() == Some(libc::ESRCH) => {
                OpenError::NoSuchProcess { pid }.into()
            }
            Err(source) => OpenError::System { pid, source }.into(),
        }
    }

    /// This error, after the attempt to undo what was done before it.
    pub(crate) fn with_undo(self, undone: Result<(), Self>) -> Self {
        match undone {
            Ok(()) => self,
            Err(undo) => Self::NotUndone {
                source: self.into(),
                undo: undo.into(),
            },
        }
    }

    /// This error, where the process has ended meanwhile: then that is the error.
    pub fn of_ended(self, pid: i32) -> Self {
        match self.exit_code() {
            exit_code::NO_SUCH_PROCESS => self,
            _ => StopError::Gone { pid }.into(),
        }
    }

    /// Whether a suspended context blocks the thread.
    pub(crate) fn is_blocked_by_context(&self) -> bool {
        let reason = match self {
            Self::ThreadInside { reason, .. } => reason,
            _ => return false,
        };
        *reason == BlockReason::ContextSuspended
    }

    /// Whether the agent was busy, so that the command may be tried again.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self, Self::Agent { outcome, .. } if is_busy(*outcome))
    }

    /// Whether a thread did not stop in time, as happens on a busy machine.
    pub(crate) fn is_slow_stop(&self) -> bool {
        matches!(self, Self::Stop(StopError::TimedOut { .. }))
    }

    /// Whether a thread has ended in the middle of a remote call. A thread cannot end by itself
    /// then: its process is ending.
    pub fn is_of_ended_thread(&self) -> bool {
        match self {
            Self::RemoteCall(RemoteCallError::ThreadEnded { .. }) => true,
            Self::NotUndone { source, .. } => source.is_of_ended_thread(),
            _ => false,
        }
    }

    /// This error, where it keeps a command from changing the patch of this name.
    pub(crate) fn blocking_patch(self, name: &str) -> Self {
        match self {
            Self::InTransition { .. } if !name.is_empty() => Self::OtherTransition {
                name: name.to_owned(),
                source: self.into(),
            },
            error => error,
        }
    }

    /// This error of a thread that was checked so many times in this time.
    pub(crate) fn within(mut self, waited: Duration, checks: usize) -> Self {
        if let Self::ThreadInside { timeout, looks, .. } = &mut self {
            (*timeout, *looks) = (waited, checks);
        }
        self
    }
}
