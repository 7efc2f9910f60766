//! The word that threads and their driver share.

use core::sync::atomic::{AtomicU64, Ordering};

/// An atomic word. A trait only so that the very same code can be run under a model checker for
/// memory orders.
pub trait Word {
    /// Atomic load.
    fn load(&self, order: Ordering) -> u64;
    /// Atomic store.
    fn store(&self, value: u64, order: Ordering);
    /// Stores `new` if the value is `current`; the value before. A failure is a load with
    /// `Acquire`.
    fn compare_exchange(&self, current: u64, new: u64, order: Ordering) -> Result<u64, u64>;
    /// Stores the larger of the value and `other`; the value before.
    fn fetch_max(&self, other: u64, order: Ordering) -> u64;
}

impl Word for AtomicU64 {
    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }

    fn store(&self, value: u64, order: Ordering) {
        self.store(value, order);
    }

    fn compare_exchange(&self, current: u64, new: u64, order: Ordering) -> Result<u64, u64> {
        // ORDERING: the caller's, which says why.
        self.compare_exchange(current, new, order, Ordering::Acquire)
    }

    fn fetch_max(&self, other: u64, order: Ordering) -> u64 {
        self.fetch_max(other, order)
    }
}
