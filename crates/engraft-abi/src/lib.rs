//! The bytes that the controller and the agent share.
//!
//! Everything here is `repr(C)`, little-endian by its only architecture (x86-64), free of padding
//! that could leak (zerocopy checks that at compile time), and versioned by [`VERSION`]: an agent
//! of another version is left alone. Offsets that a wrong edit could move are asserted below.
//!
//! This room holds no rule of live patching; it makes no system call and follows no pointer. All
//! that it computes is where the parts of these bytes are.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod agent_header;
mod control;
mod flat;
mod payload;
mod refusal;
mod segments;
mod snapshot;
mod table;

pub use agent_header::{AGENT_HEADER_MAGIC, AgentHeader};
pub use control::{
    AGENT_MAPPING_NAME, CodeRange, Command, Control, LoadedModule, MAGIC, MAPPING_LENGTH, Outcome,
    Response, ThreadRecord, VERSION, WriteRequest, range_kind, request_state,
};
pub use flat::{FlatError, FlatWriter};
pub use payload::{
    BuildIdBytes, PayloadFunction, PayloadHeader, PayloadImport, PayloadObject, PayloadPart,
    PayloadRelocation, STUB_SIZE, WORDS_SIZE, flags, relocation_kind, relocation_target,
};
pub use refusal::{ModuleRefusal, RefusalText};
pub use segments::ImageSegments;
pub use snapshot::{
    STATE_HAS_DOOR, SnapshotFunction, SnapshotHeader, SnapshotInstance, SnapshotObject,
    SnapshotPatch, SnapshotTransition, SnapshotUnwinder, SnapshotWaiting, patch_state,
};
pub use table::{Bytes, Table};
