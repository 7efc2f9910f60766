//! Everything that touches a running process from outside: looking at it, stopping it, reading and
//! writing its memory, calling code in it. It knows nothing of patches.
//!
//! # Two rules
//! - The target may end at any moment. That is an ordinary result (`Gone`), noticed at once.
//! - We may be killed at any instant. Then the target goes on as if nothing had happened: see
//!   [`RemoteCall`].
//!
//! # A tour
//! [`Process::open`] disturbs nothing: memory, [`Maps`], [`Modules`] and [`Task`] can be looked at.
//! [`Process::seize`] makes us the tracer, [`SeizedProcess::stop`] stops all threads, and a
//! [`StoppedProcess`] is scanned ([`StackScan`]), its stacks are walked ([`StackWalk`]), it is written to, and made to run code
//! ([`StoppedThread::call`]). It goes on by `resume` or `detach`, or when it is dropped.
//!
//! For a short pause of those who are busy, the stop has two halves ([`SeizedProcess::stop_sleepers`],
//! [`PartlyStopped::stop_rest`]), and what can be done in between is. [`Process::stop_threads`] stops
//! some threads and leaves the others alone; [`Process::visit_threads`] shows threads while each by itself stands still.
//!
//! ```no_run
//! use std::time::Duration;
//! use engraft_process::Process;
//!
//! let process = Process::open(1234)?;
//! for module in &process.modules()? {
//!     println!("{:?} {:#x} {:?}", module.path, module.load_bias, module.build_id);
//! }
//! let mut stopped = process.stop(Duration::from_millis(100))?;
//! if let Some(mut thread) = stopped.calling_thread() {
//!     let pid = thread.system_call(39, [0; 6])?;
//!     assert_eq!(pid, 1234);
//! }
//! stopped.detach()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Not offered
//! 32-bit targets; single-stepping and breakpoints; symbols other than dynamic ones and the
//! program's functions; user shadow
//! stacks (a remote call there is refused); threads inside a restartable sequence (rseq) of their own
//! (a remote call there would make the kernel forget to abort it: not yet looked for).

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("engraft-process is written for Linux on x86-64");

mod address;
mod auxv;
mod call_site;
mod deadline;
mod door;
mod effects;
mod eh_frame;
mod elf;
mod exec;
mod file_sections;
mod filters;
pub mod foreign;
mod foreign_file;
mod frame;
mod frame_registers;
mod freezer;
mod gadgets;
mod gaps;
mod interrupted_calls;
pub mod limits;
mod liveliness;
mod loader;
mod lock;
mod maps;
mod memory;
mod memory_scan;
mod modules;
mod obstacles;
mod page_cache;
mod partly_stopped;
mod prepared;
mod process;
mod protected;
mod reaper;
mod registers;
mod release;
mod remote;
mod remote_error;
mod remote_thread;
mod requests;
mod resident;
mod restart;
mod scan;
mod shared_name;
mod signal_context;
mod some_threads;
mod stack_end;
mod stop_error;
mod stopped;
mod stopped_thread;
mod stopping;
mod symbol_names;
mod symbols;
mod sys;
mod tail_calls;
mod task;
mod time_limit;
mod tracees;
mod unwind_budget;
mod unwind_rules;
mod unwind_table;
mod user_context;
mod visit;
mod wait;
mod walk;
mod walk_context;
mod walk_error;
mod way_back;

pub use address::TargetAddress;
pub use deadline::Deadline;
pub use door::{ReplacedCode, StackDoor};
pub use elf::{BuildId, ProgramHeader};
pub use filters::may_suspend_filters;
pub use foreign_file::open_ordinary;
pub use gaps::{GapRequest, REACH, find_gap};
pub use limits::BeyondLimit;
pub use loader::{DebugInterface, Loader, LoaderState};
pub use lock::ProcessLock;
pub use maps::{Mapping, Maps, MapsError};
pub use memory::{Memory, MemoryError};
pub use memory_scan::{FoundWord, MemoryScan, MemoryScanError, own_stacks};
pub use modules::{Module, ModuleError, ModuleKind, Modules};
pub use obstacles::{Obstacles, Seccomp};
pub use partly_stopped::PartlyStopped;
pub use process::{OpenError, Process};
pub use protected::ProtectedWriter;
pub use registers::Registers;
pub use remote::RemoteCall;
pub use remote_error::RemoteCallError;
pub use requests::{Asker, REQUEST_LENGTH, Requests, Seen};
pub use scan::{StackScan, Unreliable, Verdict};
pub use some_threads::{BorrowedThread, StoppedThreads};
pub use stop_error::StopError;
pub use stopped::{SeizedProcess, StoppedProcess, on_tracer_thread};
pub use stopped_thread::{StoppedThread, ThreadState};
pub use sys::schedule::GiveWay;
pub use task::{Activity, SchedulerCounters, Task, TaskStat, TaskState};
pub use user_context::UserContext;
pub use walk::{Frame, StackWalk};
pub use walk_context::{ExtraUnwindTable, WalkContext};
pub use walk_error::{BrokenWalk, WalkError};
