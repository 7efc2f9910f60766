//! Whether memory is scanned for suspended contexts: one setting for everything that this run of
//! the command does.

use std::sync::atomic::{AtomicU8, Ordering};

/// Whether all writable memory is scanned for suspended contexts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ScanMemory {
    /// In programs that are known to switch stacks.
    #[default]
    Auto,
    /// In all programs.
    On,
    /// In no program: suspended contexts are not noticed.
    Off,
}

static SETTING: AtomicU8 = AtomicU8::new(0);

/// Sets for the whole command whether memory is scanned.
pub fn set_scan_memory(setting: ScanMemory) {
    let number = match setting {
        ScanMemory::Auto => 0,
        ScanMemory::On => 1,
        ScanMemory::Off => 2,
    };
    // ORDERING: the value stands for itself, and orders no other access.
    SETTING.store(number, Ordering::Relaxed);
}

pub(super) fn scan_memory() -> ScanMemory {
    // ORDERING: as in `set_scan_memory`.
    match SETTING.load(Ordering::Relaxed) {
        1 => ScanMemory::On,
        2 => ScanMemory::Off,
        _ => ScanMemory::Auto,
    }
}
