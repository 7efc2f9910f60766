//! The agent's heap: a part of its own mapping.

#![expect(unsafe_code, reason = "an allocator")]

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::{NonNull, null_mut};

use linked_list_allocator::Heap;

/// The allocator. All that the agent allocates comes from its own mapping.
struct AgentHeap(UnsafeCell<Heap>);

// SAFETY: the heap is used only by code that holds the agent's lock (`lock`).
unsafe impl Sync for AgentHeap {}

#[global_allocator]
static HEAP: AgentHeap = AgentHeap(UnsafeCell::new(Heap::empty()));

/// Gives the heap its memory.
///
/// # Safety
/// Only once, by the holder of the lock. Nothing else ever uses this memory.
pub(crate) unsafe fn initialise(start: u64, length: u64) {
    let start = core::ptr::with_exposed_provenance_mut(start as usize);
    // SAFETY: under the lock nobody else uses the heap.
    let heap = unsafe { &mut *HEAP.0.get() };
    // SAFETY: the caller's promise.
    unsafe { heap.init(start, length as usize) };
}

// SAFETY: linked_list_allocator returns aligned, disjoint blocks; the agent's lock serialises the
// calls.
unsafe impl GlobalAlloc for AgentHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller holds the agent's lock.
        let heap = unsafe { &mut *self.0.get() };
        heap.allocate_first_fit(layout)
            .map_or(null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller holds the agent's lock.
        let heap = unsafe { &mut *self.0.get() };
        if let Some(pointer) = NonNull::new(pointer) {
            // SAFETY: `pointer` came from `alloc` with this layout (GlobalAlloc's contract).
            unsafe { heap.deallocate(pointer, layout) };
        }
    }
}
