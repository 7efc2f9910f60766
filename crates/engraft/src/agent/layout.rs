//! The layout of the agent's memory.

use engraft_abi::{Control, MAPPING_LENGTH};
use engraft_machine::PAGE_SIZE;

use super::blob::Blob;

/// Size of the stack for remote calls: the signal frame (up to 12 KiB) and the agent's own frames.
const STACK_LENGTH: u64 = 64 * 1024;

/// At least so much of the mapping is left for the agent's lists. Unused pages cost nothing.
const HEAP_LENGTH: u64 = 4 << 20;

/// The longest blob that there may be; a test of the blob checks it.
const LONGEST_BLOB: u64 = 128 << 10;

const _: () = assert!(PAGE_SIZE + STACK_LENGTH + LONGEST_BLOB + HEAP_LENGTH <= MAPPING_LENGTH);

/// Keeps the heap out of the cache line of the agent's locks and flags, which it would slow down.
const HEAP_ALIGNMENT: u64 = 64;

/// The offsets of the parts of the agent's mapping: control block, stack, blob, heap. The heap
/// begins in the page in which the blob's variables end, because each page costs every target.
pub(super) struct AgentLayout {
    pub(super) stack_top: u64,
    pub(super) blob: u64,
    pub(super) heap: u64,
}

impl AgentLayout {
    pub(super) fn of(blob: &Blob) -> Self {
        let start = (size_of::<Control>() as u64).next_multiple_of(PAGE_SIZE);
        let stack_top = start + STACK_LENGTH;
        Self {
            stack_top,
            blob: stack_top,
            heap: stack_top + blob.end.next_multiple_of(HEAP_ALIGNMENT),
        }
    }

    /// The length of the heap: the rest of the mapping.
    pub(super) fn heap_length(&self) -> u64 {
        MAPPING_LENGTH.saturating_sub(self.heap)
    }
}
