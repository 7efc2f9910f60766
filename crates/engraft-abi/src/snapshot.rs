//! The snapshot of the agent's state: a flat buffer that the agent publishes anew after every
//! change. A controller reads it from outside without stopping any thread
//! ([`crate::Control::snapshot_generation`]).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::payload::BuildIdBytes;
use crate::table::{Bytes, Table};

/// The start of a snapshot. All offsets are from here.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SnapshotHeader {
    /// Size of the whole snapshot in bytes.
    pub length: u64,
    /// Patches, in the order in which they were enabled ([`SnapshotPatch`]).
    pub patches: Table,
    /// Number of the patch that is prepared and not yet enabled; 0 if there is none.
    pub prepared: u64,
    /// The transition that is on.
    pub transition: SnapshotTransition,
    /// The unwinders of the process that are known ([`SnapshotUnwinder`]).
    pub unwinders: Table,
}

/// An unwinder of the process, which exceptions and cancelled threads use.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SnapshotUnwinder {
    /// The loader's name of the module that it is part of; empty for the main program.
    pub path: Bytes,
    /// Why it cannot unwind new code; empty if it can.
    pub failure: Bytes,
    /// Code of ours that its calls go through; 0 if there is none.
    pub code: u64,
    /// Size of that in bytes.
    pub code_length: u64,
}

/// A transition.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SnapshotTransition {
    /// Number of the patch in transition; 0 if there is no transition.
    pub patch: u64,
    /// 1: to the patch; 0: back from it.
    pub to_patched: u64,
    /// 1: the transition was started, and all threads but the waiting ones have switched. 0: no
    /// thread has switched, and no stack has been checked.
    pub started: u64,
    /// 1: it only undoes what could not be done, and waits for no thread.
    pub canceled: u64,
    /// Address of the word with the state of all threads that are not listed.
    pub others: u64,
    /// Those that had yet to switch when this was written ([`SnapshotWaiting`]).
    pub waiting: Table,
}

/// A thread that has yet to switch. It may do so by itself, and no command has to run for that: its
/// word tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SnapshotWaiting {
    /// Its thread pointer; 0 for all that have none.
    pub thread: u64,
    /// Address of the word with its state, until the next command; 0 if it has none. It has
    /// switched when that is what [`SnapshotTransition::others`] leads to.
    pub state: u64,
}

/// A bit of a thread's state word: the thread may switch by itself.
pub const STATE_HAS_DOOR: u64 = 4;

/// One patch.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SnapshotPatch {
    /// Its number.
    pub number: u64,
    /// Its name (UTF-8).
    pub name: Bytes,
    /// One of [`patch_state`].
    pub state: u64,
    /// 1 if it is less than its fix.
    pub partial: u64,
    /// What it changes ([`SnapshotObject`]).
    pub objects: Table,
}

/// Values of [`SnapshotPatch::state`].
pub mod patch_state {
    /// Known, not in effect.
    pub const DISABLED: u64 = 0;
    /// In effect.
    pub const ENABLED: u64 = 1;
    /// Being enabled; some threads still run the old universe.
    pub const ENABLING: u64 = 2;
    /// Being disabled; some threads still run the new universe.
    pub const DISABLING: u64 = 3;
}

/// One object of a patch.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SnapshotObject {
    /// Which one.
    pub build_id: BuildIdBytes,
    /// Its file name when the patch was built.
    pub file_name: Bytes,
    /// Its functions ([`SnapshotFunction`]).
    pub functions: Table,
    /// The loaded modules that are this object; empty if it is not loaded ([`SnapshotInstance`]).
    pub instances: Table,
}

/// One function of an object.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SnapshotFunction {
    /// The old symbol's name.
    pub name: Bytes,
    /// Link-time address of its entry.
    pub address: u64,
}

/// One module that holds the object.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SnapshotInstance {
    /// Difference between addresses in the process and link-time addresses.
    pub load_bias: u64,
    /// The loader's name of it; empty for the main program.
    pub path: Bytes,
    /// Where the patch's image for it is; 0 if it is not patched.
    pub image: u64,
    /// Size of that image in bytes.
    pub image_length: u64,
    /// How much of it, from its start, is code.
    pub code_length: u64,
    /// Where its call frame information is, in the form of an `.eh_frame` section.
    pub unwind: u64,
    /// Size of that in bytes; 0 if there is none.
    pub unwind_length: u64,
}
