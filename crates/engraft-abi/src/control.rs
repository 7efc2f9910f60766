//! The head of the agent's mapping, and the commands that a controller gives.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, TryFromBytes};

/// First bytes of a complete agent; written last, so that an injection that died half-way is not
/// taken for an agent.
pub const MAGIC: [u8; 16] = *b"engraft agent\n\0\0";

/// Version of everything in this crate. A controller talks only to an agent of its own version.
pub const VERSION: u64 = 2;

/// Name of the agent's memory in `/proc/PID/maps` (as a memfd or as named anonymous memory).
pub const AGENT_MAPPING_NAME: &str = "engraft-agent";

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

    /// Where a remote call enters: `extern "C" fn(command, control block, argument 0, argument 1) -> outcome`.
    pub enter: u64,
    /// Where a remote call returns to: `mov rbx, rax`, then `rt_sigreturn`.
    pub restorer: u64,
    /// Where the loader's break function is sent to.
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

    /// 1 while the agent takes part in the loader's work and knows what is loaded.
    pub attached: u64,

    /// The last answer; valid until the next command.
    pub response: Response,

    /// Even: the snapshot fields below are stable; odd: the agent is changing them.
    pub snapshot_generation: u64,
    /// Address of the current snapshot.
    pub snapshot: u64,
    /// Its size in bytes.
    pub snapshot_length: u64,
    /// Changes whenever a module comes or goes: ranges that were listed before are out of date then.
    pub generation: u64,
    /// Address of the ranges that the last command asked to be clear: [`CodeRange`] records.
    pub ranges: u64,
    /// Number of these.
    pub range_count: u64,
    /// Address of the detours that the last command wrote: [`DetourWrite`] records.
    pub writes: u64,
    /// Number of these.
    pub write_count: u64,

    /// Not 0: a thread of the process has a seccomp filter, which may end the process for a system call
    /// that the program itself never makes. The loader's hook, which no tracer helps, makes no others then.
    pub filtered: u64,
}

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, TryFromBytes)]
#[repr(u64)]
pub enum Command {
    /// Take the loaded modules over and hook the loader, for the first time or after the last patch has
    /// gone. All threads are stopped; no load is under way.
    Attach = 1,
    /// Map `argument 0` bytes for a payload; its address is the response's value.
    Allocate = 2,
    /// Take over the payload at `argument 0` (length `argument 1`) and prepare it for every module that
    /// is alive; nothing runs it yet. The response's value is the patch's number. Unless the outcome is
    /// [`Outcome::Busy`], the payload's memory is the agent's from then on.
    Prepare = 3,
    /// Enable the prepared patch `argument 0`. All threads are stopped and clear.
    Enable = 4,
    /// Forget the prepared patch `argument 0`.
    Abandon = 5,
    /// Find the enabled patch whose name is at `argument 0` (length `argument 1`); the response's value
    /// is its number.
    Find = 6,
    /// Disable the patch `argument 0`. All threads are stopped and clear. After the last patch the agent
    /// lets go of the loader.
    Disable = 7,
    /// Give the mapping at `argument 0` (length `argument 1`) of an earlier `Allocate` back.
    Free = 8,
    /// Let go of the loader if no patch is known. All threads are stopped. Afterwards nothing leads into
    /// the agent any more, and its mapping can be unmapped if no thread is inside it.
    Detach = 9,
    /// List, as `ranges`, the code that must be clear before threads switch: to the patch `argument 0` if
    /// `argument 1` is 1, back from it if 0.
    Plan = 10,
    /// Forget the modules that the loader has unmapped. All threads are stopped.
    Settle = 11,
    /// Find the newest disabled patch whose name is at `argument 0` (length `argument 1`); the response's
    /// value is its number. [`Outcome::AlreadyThere`] if there is only an enabled one.
    FindDisabled = 20,
    /// Prepare the disabled patch `argument 0` again, from what was kept of it.
    PrepareAgain = 21,
    /// List, as `ranges`, the memory that `Remove` would take away: nobody may refer to it any more.
    PlanRemoval = 22,
    /// Take the memory of the disabled patch `argument 0` away and forget it. All threads are stopped,
    /// and none refers to it. The response's value is the size in bytes of what stays, because the
    /// program may hold addresses of functions in it.
    Remove = 23,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, TryFromBytes)]
#[repr(u64)]
pub enum Outcome {
    /// Done.
    Done = 0,
    /// A thread inside the loader is at work on the patches; try again when it had time to go on.
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
}

/// Code that must not be running and must not be returned into for a command to go on.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CodeRange {
    /// First address.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// Name of the function, cut if longer, padded with zeroes.
    pub name: [u8; 64],
}

/// A detour that was written or taken back: what must be in memory now.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DetourWrite {
    /// Where.
    pub address: u64,
    /// How many bytes of `bytes`.
    pub length: u64,
    /// Expected there.
    pub bytes: [u8; 16],
}
