//! Suspended contexts (coroutines, fibers, green threads), whose stacks no thread is on.
//!
//! Such a context may be inside of code that a transition is to leave, or that is to be removed,
//! and any thread may resume it at any time. Checking the stacks of threads does not show it. So in
//! programs that are known to switch stacks ([`StackSwitcher`]) all writable memory is scanned
//! while all threads are stopped, and no thread switches while a context is suspended inside. This
//! folder knows whether memory is to be scanned; the scan is in `transition::suspended`.
//!
//! Not seen:
//! - programs that switch stacks by code of their own without a known name (the user can ask for a
//!   scan:
//!   [`ScanMemory`]);
//! - registers that `setjmp` has mangled, where they lead to a stack that no thread is on;
//! - a context that a blocked thread suspends later, and that another thread, which has switched,
//!   resumes;
//! - threads that are born while a transition is open: they run the new universe.
//!
//! This folder must not know the agent and patches.

mod setting;
mod switchers;

use std::cell::{Cell, OnceCell};
use std::time::{Duration, Instant};

use engraft_process::Process;

pub use setting::{ScanMemory, set_scan_memory};
pub use switchers::{StackSwitcher, stack_switchers};

use crate::error::Error;

/// Between two scans of all memory the program runs at least so many times as long as the last one
/// took, because all threads are stopped in a scan.
const SHARE: u32 = 10;

/// What one session knows of suspended contexts in its process.
#[derive(Default)]
pub(crate) struct Contexts {
    switchers: OnceCell<Vec<StackSwitcher>>,
    not_before: Cell<Option<Instant>>,
}

impl Contexts {
    /// Finds out how the process switches stacks. To be called while it runs.
    pub(crate) fn prepare(&self, process: &Process) -> Result<(), Error> {
        if self.switchers.get().is_none() {
            // It cannot have been set meanwhile, and would have been set to the same.
            let _ = self.switchers.set(stack_switchers(process)?);
        }
        Ok(())
    }

    /// Whether memory is to be scanned.
    pub(crate) fn are_scanned(&self) -> bool {
        match setting::scan_memory() {
            ScanMemory::On => true,
            ScanMemory::Off => false,
            ScanMemory::Auto => !self.known().is_empty(),
        }
    }

    /// Whether it is time for another scan.
    pub(crate) fn may_scan(&self) -> bool {
        let not_before = self.not_before.get();
        not_before.is_none_or(|time| Instant::now() >= time)
    }

    /// Whether all contexts are suspended by `swapcontext`, whose contexts can be recognised in
    /// memory.
    pub(crate) fn are_recognisable(&self) -> bool {
        !self.known().is_empty() && self.known().iter().all(StackSwitcher::is_user_context)
    }

    fn known(&self) -> &[StackSwitcher] {
        self.switchers.get().map_or(&[], Vec::as_slice)
    }

    /// Notes how long a scan took.
    pub(crate) fn note_scan(&self, took: Duration) {
        self.not_before.set(Some(Instant::now() + took * SHARE));
    }
}
