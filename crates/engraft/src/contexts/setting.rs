//! Whether memory is looked through: what the user wants, for all that this run of the command does.

use std::sync::atomic::{AtomicU8, Ordering};

/// Whether all writable memory is looked through for suspended contexts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ScanMemory {
    /// In programs that are known to switch stacks.
    #[default]
    Auto,
    /// In all.
    On,
    /// In none: what is suspended is not noticed.
    Off,
}

static SETTING: AtomicU8 = AtomicU8::new(0);

/// Sets it for this process.
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
