//! Where the dynamic loader enters the agent: at every load and unload.

#![expect(unsafe_code, reason = "an entry point, and the loader's structures")]

use core::ptr::null;

use crate::loader::hook::Raise;
use crate::loader::namespaces::{self, Activity};
use crate::loader::{broken, calls};
use crate::model::agent::Agent;
use crate::runtime::lock::Guard;
use crate::system::{SignalSet, block_signals, is_filtered};

/// Called by the loader, through the entry stub, instead of its break function. Null, or the error to
/// raise.
///
/// # Safety
/// Only the entry stub calls it; `entry_stack` is where the return address of this call is.
pub unsafe extern "C" fn loader_hook(entry_stack: u64) -> *const Raise {
    let debug = calls::debug();
    namespaces::look_for_namespaces(debug);
    // Three of the four calls for a library that no patch concerns end here. No lock is held and no state
    // touched, so a signal may come at any point; see `calls` for what it may do.
    if calls::brings_nothing(namespaces::fingerprint(debug)) {
        let activity = Activity::of(debug);
        calls::count(matches!(activity, Activity::None));
        // SAFETY: this is the hook.
        calls::replace_adding(unsafe { activity.end_call() });
        return null();
    }
    something_changed(entry_stack)
}

/// The rest of [`loader_hook`], when the loader's lists are not the known ones.
// Not inlined, so that the other way needs no stack.
#[inline(never)]
fn something_changed(entry_stack: u64) -> *const Raise {
    // Read once: a controller may find a filter between the two uses.
    let filtered = is_filtered();
    // The program's signal handlers may call dlopen, which would wait for this very call. Under a filter
    // that risk is taken: POSIX does not allow dlopen there, and the filter may not allow the call.
    let signals = (!filtered).then(|| block_signals(SignalSet::ALL));
    let mut guard = Guard::acquire(entry_stack, signals, filtered);
    let raise = if guard.is_broken() {
        broken::loader_event()
    } else {
        guard.agent().map_or(null(), Agent::loader_event)
    };
    drop(guard);
    if let Some(signals) = signals {
        block_signals(signals);
    }
    raise
}

/// The same once more, after a panic in the middle of it.
#[cfg(feature = "freestanding")]
pub(crate) extern "C" fn begin_again(entry_stack: u64) -> *const Raise {
    something_changed(entry_stack)
}
