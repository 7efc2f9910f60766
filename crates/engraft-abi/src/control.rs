//! The head of the agent's mapping, and the commands that a controller gives.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, TryFromBytes};

use crate::payload::BuildIdBytes;
use crate::table::Bytes;

/// First bytes of a complete agent. They are written last, so that an unfinished injection is not
/// taken for an agent.
pub const MAGIC: [u8; 16] = *b"engraft agent\n\0\0";

/// Version of everything in this crate. A controller talks only to an agent of its own version.
pub const VERSION: u64 = 9;

/// Name of the agent's memory in `/proc/PID/maps` (as a memfd or as named anonymous memory; where
/// it can have none, there is a [`AgentHeader`](crate::AgentHeader)).
pub const AGENT_MAPPING_NAME: &str = "engraft-agent";

/// Size of the agent's whole mapping in bytes. The same in all versions, and hardly any program's:
/// an injection that was not completed can be known by it.
pub const MAPPING_LENGTH: u64 = 0x443_000;

/// The first bytes of the agent's mapping: facts about the target that the controller found, the
/// agent's entry points, and the last answer.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Control {
    /// [`MAGIC`].
    pub magic: [u8; 16],
    /// [`VERSION`].
    pub version: u64,
    /// Size of the agent's whole mapping in bytes, from the start of this structure.
    pub mapping_length: u64,

    /// Where a remote call enters: `extern "C" fn(command, control block, argument 0, argument 1)
    /// -> outcome`.
    pub enter: u64,
    /// Where a remote call returns to: `mov rbx, rax`, then `rt_sigreturn`.
    pub restorer: u64,
    /// Where the loader's break function jumps to.
    pub hook: u64,
    /// Upper end of the stack for remote calls.
    pub stack_top: u64,
    /// Memory for the agent's heap.
    pub heap_start: u64,
    /// Size of the heap in bytes.
    pub heap_length: u64,

    /// The loader's `r_debug`; 0 without a loader.
    pub debug: u64,
    /// `_dl_signal_error` as the loader itself would call it; 0 if there is none.
    pub signal_error: u64,
    /// Program headers of the main program (`AT_PHDR`) in the target's memory.
    pub program_headers: u64,
    /// Number of these (`AT_PHNUM`).
    pub program_header_count: u64,
    /// Load bias of the main program.
    pub program_load_bias: u64,

    /// 1 while the agent's hook is in the loader, so that the agent knows what is loaded.
    pub attached: u64,

    /// The last answer; valid until the next command.
    pub response: Response,

    /// Even: the snapshot fields below are stable; odd: the agent is changing them.
    pub snapshot_generation: u64,
    /// Address of the current snapshot.
    pub snapshot: u64,
    /// Its size in bytes.
    pub snapshot_length: u64,
    /// Changes whenever a module comes or goes: ranges that were listed before are out of date
    /// then.
    pub generation: u64,
    /// Not 0 while a controller works with the agent. If the next controller finds it set, the last
    /// one has died, and a command of it may still be running.
    pub controlled: u64,
    /// Address of a word that is not 0 while a thread is at work in the agent; 0 before the first
    /// command.
    pub holder: u64,
    /// Address of the ranges that the last command asked to be clear: [`CodeRange`] records.
    pub ranges: u64,
    /// Number of these.
    pub range_count: u64,
    /// Address of the places that the last command would write code at: [`CodeRange`] records of
    /// exactly the bytes. No thread may be between the first and the last of them.
    pub sites: u64,
    /// Number of these.
    pub site_count: u64,
    /// What the agent asks its caller to write, in the middle of a command.
    pub request: WriteRequest,
    /// Where stubs jump to: the entry for dispatch.
    pub dispatch: u64,
    /// The agent's own code. A thread that is inside may be choosing a body.
    pub text: u64,
    /// Its size in bytes.
    pub text_length: u64,
    /// Not 0: threads may read their thread pointer with `rdfsbase` (AT_HWCAP2).
    pub has_fsgsbase: u64,

    /// Not 0: a thread of the process has a seccomp filter, which may end the process for a system
    /// call that the program itself never makes. The loader's hook, which no tracer helps, makes no
    /// others then.
    pub filtered: u64,
    /// Start and end of what contains the `r_debug`s of further namespaces, if [`Self::debug`] does
    /// not lead to them: glibc's `_rtld_global` before 2.35. Both 0 if there is no such thing.
    pub unchained: [u64; 2],
    /// Number of the patch into whose trampolines the controller has moved threads that were inside
    /// sites. Its images stay mapped until [`Command::Remove`], even if the patch never takes
    /// effect.
    pub moved_into: u64,
    /// When the open transition was begun or reversed, in nanoseconds since 1970 by the
    /// controller's clock; 0 if that is not known.
    pub begun: u64,
    /// 1 if the agent found its own state damaged: it answers all commands with
    /// [`Outcome::Broken`], and refuses libraries that enabled patches concern.
    pub broken: u64,
    /// How many loads the broken agent has let in.
    pub loads_since: u64,
    /// A random number, for the places of new code.
    pub random: u64,
}

// The rest of its page is for lists of threads.
const _: () = assert!(size_of::<Control>() <= 2048);
const _: () = assert!(offset_of!(Control, version) == 16);
const _: () = assert!(offset_of!(Control, enter) == 32);
const _: () = assert!(offset_of!(Control, response) == 128);

/// The agent's answer in words, next to the [`Outcome`] that the call returns.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Response {
    /// A value that belongs to the command (an address, a patch's number).
    pub value: u64,
    /// Length of `text` in bytes.
    pub text_length: u64,
    /// Why something failed: UTF-8, cut if it is longer.
    pub text: [u8; 400],
}

/// What a controller can ask for.
///
/// A *list of threads* is a word with their number, followed by a [`ThreadRecord`] for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, TryFromBytes)]
#[repr(u64)]
pub enum Command {
    /// Take over the modules that are listed at `argument 0` ([`LoadedModule`] records behind a
    /// [`Table`]; length of all `argument 1`) and hook the loader, for the first time or after the
    /// last patch has gone. All threads are stopped, no load is under way, and the list is what the
    /// loader's is.
    Attach = 1,
    /// Map `argument 0` bytes for a payload; its address is the response's value.
    Allocate = 2,
    /// Take over the payload at `argument 0` (length `argument 1`) and prepare it for every module
    /// that is alive; nothing runs it yet. The response's value is the patch's number. Unless the
    /// outcome is [`Outcome::Busy`], the payload's memory is the agent's from then on.
    Prepare = 3,
    /// Enable the prepared patch `argument 0`: patch all modules, and start the transition. All
    /// threads are stopped; those of the list of threads at `argument 1` are not clear and stay
    /// behind, all others switch. The response's value is how many wait; if none, the transition is
    /// complete.
    Enable = 4,
    /// Forget the prepared patch `argument 0`.
    Abandon = 5,
    /// Disable the patch `argument 0`, as [`Command::Enable`] enables one. After the last patch the
    /// hook is removed from the loader.
    Disable = 7,
    /// Free the mapping at `argument 0` (length `argument 1`) of an earlier `Allocate`, unless it
    /// was handed over.
    Free = 8,
    /// Remove the hook from the loader, if no patch is known. All threads are stopped. Afterwards
    /// nothing leads into the agent, and its mapping can be unmapped if no thread is inside.
    Detach = 9,
    /// List, as `ranges`, the code that must be clear before threads switch: to the patch `argument
    /// 0` if `argument 1` is 1, back from it if 0; and, as `sites`, the bytes that will be
    /// overwritten.
    Plan = 10,
    /// Forget the modules that the loader has unmapped. All threads are stopped.
    ForgetUnmapped = 11,
    /// Start the transition of patch `argument 0`: switch all threads but the list at `argument 1`.
    /// It was opened or reversed by a controller that has not got as far. All threads are stopped.
    /// The response's value is how many wait; if none, the transition is complete.
    Start = 12,
    /// Reverse the transition of patch `argument 0`, and start it as [`Command::Start`] does. All
    /// threads are stopped.
    Reverse = 13,
    /// Switch the thread with the thread pointer `argument 1` in the transition of patch `argument
    /// 0`. Every thread with this thread pointer is stopped and clear. The response's value is how
    /// many wait.
    Switch = 14,
    /// The last thread with the thread pointer `argument 1` has ended. The response's value is how
    /// many wait.
    ThreadExited = 15,
    /// Complete the transition of patch `argument 0`, which waits for no thread. All threads are
    /// stopped.
    Complete = 16,
    /// Declare all threads switched in the transition of patch `argument 0`, wherever they are, and
    /// end it. All threads are stopped.
    Force = 17,
    /// Free what a controller that has died had allocated and not handed over.
    Reclaim = 18,
    /// Prepare the disabled patch `argument 0` again, from what was kept of it.
    PrepareAgain = 21,
    /// List the memory that `Remove` would unmap: as `ranges`, constants and variables, to which no
    /// thread may refer; as `sites`, code, into which no thread may return.
    PlanRemoval = 22,
    /// Unmap the memory of the disabled patch `argument 0` and forget the patch. All threads are
    /// stopped, and none refers to the memory. The response's value is the size in bytes of what
    /// stays mapped, because the program may hold addresses of functions in it.
    Remove = 23,
    /// Note how the one thread of the list of threads at `argument 1` may switch by itself in the
    /// transition of patch `argument 0`. It is stopped, inside, and the one that carries this out.
    /// The response's value is how many wait.
    SetDoor = 24,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, TryFromBytes)]
#[repr(u64)]
pub enum Outcome {
    /// Done.
    Done = 0,
    /// A thread inside the loader is at work on the patches; try again later.
    Busy = 1,
    /// A patch of that name is there already; the response's value is its number.
    AlreadyThere = 2,
    /// No such patch.
    NoSuchPatch = 3,
    /// The code in a module is not what the patch was built against.
    CodeDiffers = 4,
    /// A symbol of another module does not resolve.
    SymbolMissing = 5,
    /// No room within reach of the module, or no memory.
    NoMemory = 6,
    /// A function cannot take a detour.
    NoRoom = 7,
    /// A system call in the target failed.
    SystemCall = 8,
    /// The payload contradicts itself.
    BadPayload = 9,
    /// The rules do not allow it now (a transition is running, a patch below is needed, ...).
    NotAllowed = 10,
    /// The loader cannot be hooked.
    Loader = 11,
    /// The agent found its own state damaged; the target needs a restart to be patched again.
    Broken = 12,
    /// A load or unload of a library is under way; try again.
    LoaderBusy = 13,
    /// The controller has died, or has not written what it was asked to.
    NotWritten = 14,
    /// Another patch is prepared or in transition; the response's value is its number.
    InTransition = 15,
}

/// A thread that is not clear, and how it may switch by itself (see `engraft_core::door`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ThreadRecord {
    /// Its thread pointer; 0 stands for all threads that have none.
    pub pointer: u64,
    /// Start and end of the thread's own stack, if a call from there that tells nothing shuts the
    /// door until the next check; 0 and 0 if it closes the door.
    pub own_stack: [u64; 2],
    /// The lowest address that is known to belong to the stack that the thread is on; 0 if it may
    /// not switch by itself.
    pub low: u64,
    /// Where the outermost replaced function returns to, if it may end in a jump to another one;
    /// otherwise 0.
    pub return_to: u64,
    /// The CFA of the outermost replaced frame, then those of frames further out; unused ones are
    /// 0.
    pub depths: [u64; 4],
}

/// Code that must not be running and must not be returned into for a command to go on.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CodeRange {
    /// First address.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// Of a site: where the same instructions are, each as far from this address as it is from
    /// `start`. Otherwise 0.
    pub moved: u64,
    /// One of [`range_kind`].
    pub kind: u64,
    /// For [`range_kind::ENTRY`]: where from the start the site is, and what its bytes were before
    /// it was written.
    pub site: u64,
    /// The latter.
    pub original: [u8; 8],
    /// Name of the function, cut if longer, padded with zeroes.
    pub name: [u8; 64],
}

/// Values of [`CodeRange::kind`].
pub mod range_kind {
    /// Code of which nothing more is known.
    pub const CODE: u64 = 0;
    /// The old function's part with its entry, at the start.
    pub const ENTRY: u64 = 1;
    /// A thread that is here decides, or has decided, where a call goes.
    pub const DECIDES: u64 = 2;
}

/// What the agent asks its caller to write while all threads are stopped. The controller looks at
/// it for a while; if it seems not to, the agent makes the system call `read(-1, request, ...)`,
/// which stops at the tracer and does nothing without one.
///
/// Code that threads may be about to run, and the words that say where they go, are never written
/// by the agent itself in a command: the controller may be killed at any instant, and then all
/// threads run on while the command goes on. A write of the controller happens while it holds them,
/// or not at all.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct WriteRequest {
    /// Where.
    pub address: u64,
    /// How many bytes of `bytes`, at most 16.
    pub length: u64,
    /// What is there now.
    pub expected: [u8; 16],
    /// What is to be there.
    pub bytes: [u8; 16],
    /// One of [`request_state`].
    pub state: u64,
}

/// Values of [`WriteRequest::state`].
pub mod request_state {
    /// Nothing is asked for.
    pub const NOTHING: u64 = 0;
    /// Nothing is asked for, and the agent is at work on another processor: the controller need not
    /// yield its own.
    pub const AT_WORK: u64 = 1;
    /// The other fields say what is asked for.
    pub const ASKED: u64 = 2;
    /// The controller has seen the request, and is about to write.
    pub const SEEN: u64 = 3;
    /// It was written.
    pub const DONE: u64 = 4;
    /// Something else than expected is there; nothing was written.
    pub const DIFFERS: u64 = 5;
    /// It could not be written.
    pub const FAILED: u64 = 6;
}

/// A module that the loader has loaded completely.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LoadedModule {
    /// Its `struct link_map`; 0 in a program without a loader.
    pub link_map: u64,
    /// Its dynamic section, as the link map has it.
    pub dynamic: u64,
    /// What to add to link-time addresses.
    pub load_bias: u64,
    /// Its program headers in memory.
    pub program_headers: u64,
    /// Number of these.
    pub program_header_count: u64,
    /// First loaded byte.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// Its build-id; length 0 if it has none.
    pub build_id: BuildIdBytes,
    /// The loader's name of it; empty for the main program. An offset from the start of the list.
    pub path: Bytes,
    /// The `_Unwind_Find_FDE` of an unwinder that was linked into it; 0 if none was found.
    pub find_fde: u64,
}
