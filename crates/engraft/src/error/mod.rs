//! What can go wrong, in the user's terms. With which exit code the command ends is in [`exit_code`], what
//! the user can do in [`Error::hint`].

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
    BeyondLimit, MapsError, MemoryError, MemoryScanError, ModuleError, OpenError, Process,
    RemoteCallError, StopError, TargetAddress,
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
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("failed to write {}: {source}", path.display())]
    WriteFile {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not a usable patch file.
    #[error("{}: {source}", path.display())]
    PatchFile {
        /// Which.
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
        /// The file of what is loaded.
        path: String,
        /// What is loaded.
        found: String,
        /// What the patch was made for.
        expected: String,
    },
    /// The process has loaded nothing that the patch changes, and would not be seen to load it.
    #[error(
        "nothing to patch in process {pid}: it has loaded none of {}, and runs a static program, which no library \
         that comes later is seen in",
        objects.join(", ")
    )]
    NothingToPatch {
        /// The process.
        pid: i32,
        /// What the patch is for.
        objects: Vec<String>,
    },
    /// Threads did not leave the code that is to be replaced.
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
        /// What it does there.
        reason: BlockReason,
        /// The function.
        function: String,
        /// Where it is in there, in words.
        frame: Option<String>,
        /// How often we looked: it may have been elsewhere in between.
        looks: usize,
        /// How long we tried.
        timeout: Duration,
    },
    /// Threads did not leave the code that is to be replaced, but all others have switched.
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
        /// How many of them switch by themselves when they next call a function that the patch replaces. A controller
        /// has to see the others outside.
        at_next_call: usize,
        /// The first of them, as [`Error::ThreadInside`], if it is known.
        inside: Option<Box<Self>>,
    },
    /// What was mapped for the agent is something else now.
    #[error(
        "process {pid} has put something else in the place of the memory that was mapped for the agent"
    )]
    MemoryReplaced {
        /// The process.
        pid: i32,
    },
    /// Memory of an agent is there that was taken away.
    #[error("{}-{} in process {pid} is still memory of an agent that was removed", range.start, range.end)]
    MemoryLeft {
        /// The process.
        pid: i32,
        /// Where.
        range: Range<TargetAddress>,
    },
    /// An agent's memory file is open that was closed.
    #[error(
        "descriptor {descriptor} of process {pid} is still the memory file of an agent that was removed"
    )]
    FileLeft {
        /// The process.
        pid: i32,
        /// Its number there.
        descriptor: u64,
    },
    /// There is too much that looks like what an injection has left.
    #[error(
        "process {pid} has more memory that looks like an agent's than could be taken away within {timeout:?}"
    )]
    TooManyLeftovers {
        /// The process.
        pid: i32,
        /// How long we tried.
        timeout: Duration,
    },
    /// There is one transition at a time in a process, and another patch's did not end.
    #[error("patch '{name}' has to wait: {source}")]
    OtherTransition {
        /// The patch.
        name: String,
        /// Who has yet to switch, and to which patch: an [`Error::InTransition`].
        source: Box<Self>,
    },
    /// A patch that threads had yet to switch to when the time was up was turned round.
    #[error(
        "{source}; {}",
        match left {
            None => "it was taken back: every thread runs the code from before".to_owned(),
            Some(left) => format!("taking it back is not over: {left}"),
        }
    )]
    Reversed {
        /// Who had yet to switch: an [`Error::InTransition`].
        source: Box<Self>,
        /// Why the way back has not come to its end.
        left: Option<Box<Self>>,
    },
    /// Another controller is at work.
    #[error("another engraft was at work on process {pid} for more than {timeout:?}")]
    AnotherController {
        /// The process.
        pid: i32,
        /// How long we tried.
        timeout: Duration,
    },
    /// A change failed, and so did bringing everything back.
    #[error("{source}; and it could not be undone: {undo}")]
    NotUndone {
        /// Why the change failed.
        source: Box<Self>,
        /// Why undoing failed.
        undo: Box<Self>,
    },
    /// There is no memory for it, because of a limit.
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
    /// No transition is on.
    #[error("no patch{} is in transition in process {pid}", named(name))]
    NotInTransition {
        /// The process.
        pid: i32,
        /// The patch that was asked for, if one was.
        name: Option<String>,
    },
    /// A thread holds an address inside the memory that is to be taken away.
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
        /// How long we tried.
        timeout: Duration,
    },
    /// A context that no thread runs holds an address inside the memory that is to be taken away, or may.
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
        /// How long we tried.
        timeout: Duration,
    },
    /// Memory could not be looked through for suspended contexts.
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
    /// There is no process of the kind that was asked for.
    #[error("no process {wanted}")]
    NoneSelected {
        /// What was asked for.
        wanted: String,
    },
    /// No process has the patch.
    #[error("no process {wanted}")]
    NonePatched {
        /// What was asked for.
        wanted: String,
    },
    /// What was asked for could not be done in some of the processes; why is reported for each of them.
    #[error(
        "failed in {} of {of} processes: {}", failed.len(),
        failed.iter().map(i32::to_string).collect::<Vec<_>>().join(", ")
    )]
    SomeFailed {
        /// In which.
        failed: Vec<i32>,
        /// Of how many.
        of: usize,
        /// The first one's exit code.
        exit_code: u8,
    },
    /// A thread inside the dynamic loader was in the way.
    #[error("process {pid} was loading or unloading libraries for more than {timeout:?}")]
    LoaderBusy {
        /// The process.
        pid: i32,
        /// How long we tried.
        timeout: Duration,
    },
    /// The agent in the target said no.
    #[error("process {pid}: {text}")]
    Agent {
        /// The process.
        pid: i32,
        /// The kind of failure.
        outcome: Outcome,
        /// The agent's words.
        text: String,
    },
    /// An agent of another version is in the process.
    #[error(
        "process {pid} has an agent of version {found}, this engraft talks to version {expected}"
    )]
    AgentVersion {
        /// The process.
        pid: i32,
        /// What is there.
        found: u64,
        /// What we understand.
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
    /// What the agent says about itself cannot be read.
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
    /// The process does not have program headers where they should be.
    #[error("process {pid} has no main program that could be recognised")]
    NoProgram {
        /// The process.
        pid: i32,
    },
    /// A process shows more than is read of one.
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

/// At how many looks something was seen; between them, nobody knows.
fn at_each(looks: usize, timeout: Duration) -> String {
    match looks {
        0 | 1 => format!("when it was looked at, after {timeout:?}"),
        looks => format!("at each of {looks} looks in {timeout:?}"),
    }
}

/// Whether a command that ended so may work a moment later.
pub(crate) fn is_busy(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Busy | Outcome::LoaderBusy)
}

impl Error {
    /// What the system said when a process was looked at.
    pub(crate) fn reading(process: &Process) -> impl FnOnce(std::io::Error) -> Self {
        let pid = process.pid();
        move |source| match source.downcast::<BeyondLimit>() {
            Ok(beyond) => beyond.into(),
            // It is ending: its files in /proc say so before it has ended.
            Err(source) if source.raw_os_error() == Some(libc::ESRCH) => {
                OpenError::NoSuchProcess { pid }.into()
            }
            Err(source) => OpenError::System { pid, source }.into(),
        }
    }

    /// This error, with what became of undoing what had been done before it.
    pub(crate) fn with_undo(self, undone: Result<(), Self>) -> Self {
        match undone {
            Ok(()) => self,
            Err(undo) => Self::NotUndone {
                source: self.into(),
                undo: undo.into(),
            },
        }
    }

    /// This error of a process that has ended meanwhile.
    pub fn of_ended(self, pid: i32) -> Self {
        match self.exit_code() {
            exit_code::NO_SUCH_PROCESS => self,
            _ => StopError::Gone { pid }.into(),
        }
    }

    /// Whether a thread waits for what is suspended.
    pub(crate) fn is_held(&self) -> bool {
        let reason = match self {
            Self::ThreadInside { reason, .. } => reason,
            _ => return false,
        };
        *reason == BlockReason::ContextSuspended
    }

    /// Whether the agent asks to try again.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self, Self::Agent { outcome, .. } if is_busy(*outcome))
    }

    /// Whether a thread did not stop in time, as happens on a machine that has much else to do.
    pub(crate) fn is_slow_stop(&self) -> bool {
        matches!(self, Self::Stop(StopError::TimedOut { .. }))
    }

    /// A thread has ended in the middle of a call of ours. By itself it cannot: its process is ending.
    pub fn is_of_ended_thread(&self) -> bool {
        match self {
            Self::RemoteCall(RemoteCallError::ThreadEnded { .. }) => true,
            Self::NotUndone { source, .. } => source.is_of_ended_thread(),
            _ => false,
        }
    }

    /// This error, if it is why a change has to wait that a command makes with a patch.
    pub(crate) fn blocking_patch(self, name: &str) -> Self {
        match self {
            Self::InTransition { .. } if !name.is_empty() => Self::OtherTransition {
                name: name.to_owned(),
                source: self.into(),
            },
            error => error,
        }
    }

    /// This error, after it was waited for that long with so many looks.
    pub(crate) fn within(mut self, waited: Duration, tried: usize) -> Self {
        if let Self::ThreadInside { timeout, looks, .. } = &mut self {
            (*timeout, *looks) = (waited, tried);
        }
        self
    }
}
