//! Contexts that are suspended on no thread's stack: coroutines, fibers, green threads.
//!
//! Such a context may be inside of code that a transition is to leave, or that is to be taken away, and any thread may
//! go on with it at any time. No look at threads shows it. So in programs that are known to switch stacks
//! ([`StackSwitcher`]) all writable memory is looked through while everybody stands still, and no thread switches while a
//! context is suspended inside.
//!
//! What this room cannot see: programs that switch stacks by code of their own without a known name (the user can ask
//! for a look: [`ScanMemory`]); registers that `setjmp` has disguised, where they lead to a stack that no thread
//! is on; a context that a thread inside suspends later, and that another thread, which has switched, goes on with;
//! threads that are born while a transition is open, which run the new universe.

mod setting;
mod switchers;

use std::cell::{Cell, OnceCell};
use std::time::{Duration, Instant};

use engraft_process::Process;

pub use setting::{ScanMemory, set_scan_memory};
pub use switchers::{StackSwitcher, stack_switchers};

use crate::error::Error;

/// How many times longer than a look at all memory a program runs between two of them, at least: everybody stands
/// still in them.
const SHARE: u32 = 10;

/// What one session knows of the contexts of its process.
#[derive(Default)]
pub(crate) struct Contexts {
    switchers: OnceCell<Vec<StackSwitcher>>,
    not_before: Cell<Option<Instant>>,
}

impl Contexts {
    /// Finds out what the process switches stacks with. To be done while it runs.
    pub(crate) fn prepare(&self, process: &Process) -> Result<(), Error> {
        if self.switchers.get().is_none() {
            // Another look at the same process finds the same.
            let _ = self.switchers.set(stack_switchers(process)?);
        }
        Ok(())
    }

    /// Whether memory is to be looked through.
    pub(crate) fn are_scanned(&self) -> bool {
        match setting::scan_memory() {
            ScanMemory::On => true,
            ScanMemory::Off => false,
            ScanMemory::Auto => !self.known().is_empty(),
        }
    }

    /// Whether it may be looked through again already.
    pub(crate) fn may_scan(&self) -> bool {
        let not_before = self.not_before.get();
        not_before.is_none_or(|time| Instant::now() >= time)
    }

    /// Whether all contexts are such as `swapcontext` suspends, which can be recognised.
    pub(crate) fn are_recognisable(&self) -> bool {
        !self.known().is_empty() && self.known().iter().all(StackSwitcher::is_user_context)
    }

    fn known(&self) -> &[StackSwitcher] {
        self.switchers.get().map_or(&[], Vec::as_slice)
    }

    pub(crate) fn note_scan(&self, took: Duration) {
        self.not_before.set(Some(Instant::now() + took * SHARE));
    }
}
