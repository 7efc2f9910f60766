//! Everything that touches a running process from outside: looking at it, stopping it, reading and
//! writing its memory, calling code in it. It knows nothing of patches.
//!
//! # Two rules
//! - The target may end at any moment. That is an ordinary result (`Gone`), noticed at once.
//! - We may be killed at any instant. Then the target continues as if nothing had happened: see
//!   [`RemoteCall`].
//!
//! # A tour
//! [`Process::open`] disturbs nothing: memory, [`Maps`], [`Modules`] and [`Task`] can be looked at.
//! [`Process::seize`] makes us the tracer, and [`SeizedProcess::stop`] stops all threads. The
//! stacks of a [`StoppedProcess`] are scanned ([`StackScan`]) and walked ([`StackWalk`]), it is
//! written to, and its threads run code ([`StoppedThread::call`]). `resume`, `detach` or a drop
//! lets it run again.
//!
//! For a short pause of busy threads, the stop has two halves ([`SeizedProcess::stop_sleepers`],
//! [`PartlyStopped::stop_rest`]), and what can be done between them is. [`Process::stop_threads`]
//! stops some threads and leaves the others alone; [`Process::stop_each`] stops threads one by one.
//!
//! # The folders
//! Each uses only folders above it in this table; `cargo xtask test` checks that.
//!
//! | folder | what it does |
//! |---|---|
//! | `sys` | what the kernel and the processor define; all `unsafe` code |
//! | `process` | one process as /proc shows it; bounds and time limits |
//! | `memory` | its memory and its memory map |
//! | `elf` | its modules, its dynamic loader, their symbols |
//! | `trace` | the threads that we trace |
//! | `stack` | what threads may return into |
//! | `call` | running code in a stopped thread |
//! | `stop` | the states of a traced process, as types |
//! | `facade` | the methods of [`Process`] that lead into these folders |
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
//! program's functions; user shadow stacks (a remote call there is refused); threads inside a
//! restartable sequence (rseq) of their own (a remote call there would make the kernel forget to
//! abort it: not yet looked for).

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("engraft-process is written for Linux on x86-64");

mod call;
mod elf;
mod facade;
mod memory;
mod process;
mod stack;
mod stop;
mod sys;
mod trace;

pub use call::remote_call::RemoteCall;
pub use call::remote_call_error::RemoteCallError;
pub use call::requests::{Asker, Requests, Seen};
pub use elf::executable::{Executable, ExecutableError};
pub use elf::loader::{DebugInterface, Loader};
pub use elf::modules::{Module, ModuleError, ModuleKind, Modules};
pub use engraft_elf::{LoaderState, ProgramHeader};
pub use engraft_machine::BuildId;
pub use engraft_machine::request::LENGTH as REQUEST_LENGTH;
pub use memory::access::{Memory, MemoryError};
pub use memory::gaps::{GapRequest, find_gap};
pub use memory::maps::{Mapping, Maps, MapsError};
pub use memory::protected::ProtectedWriter;
pub use process::capabilities::may_trace_others;
pub use process::deadline::Deadline;
pub use process::filters::may_suspend_filters;
pub use process::foreign_file::open_ordinary;
pub use process::handle::Process;
pub use process::limits::BeyondLimit;
pub use process::lock::ProcessLock;
pub use process::obstacles::{Obstacles, Seccomp};
pub use process::open_error::OpenError;
pub use process::process_list::all_processes;
pub use process::task::{Activity, SchedulerCounters, Task, TaskStat, TaskState};
pub use process::{foreign, limits};
pub use stack::door::StackDoor;
pub use stack::frame::Frame;
pub use stack::memory_scan::{FoundWord, MemoryScan, MemoryScanError, own_stacks};
pub use stack::replaced_code::ReplacedCode;
pub use stack::scan::StackScan;
pub use stack::user_context::UserContext;
pub use stack::verdict::{Unreliable, Verdict};
pub use stack::walk::StackWalk;
pub use stack::walk_context::{ExtraUnwindTable, WalkContext};
pub use stack::walk_error::{BrokenWalk, WalkError};
pub use stop::borrowed_thread::BorrowedThread;
pub use stop::partly_stopped::PartlyStopped;
pub use stop::stopped::{SeizedProcess, StoppedProcess, on_tracer_thread};
pub use stop::stopped_thread::StoppedThread;
pub use stop::stopped_threads::StoppedThreads;
pub use sys::address::TargetAddress;
pub use sys::registers::Registers;
pub use sys::time_slice::{LongSlice, time_waited};
pub use trace::stop_error::StopError;
pub use trace::thread_state::ThreadState;
