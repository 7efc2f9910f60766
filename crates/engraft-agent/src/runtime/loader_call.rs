//! Where the dynamic loader enters the agent: at every load and unload.

#![expect(unsafe_code, reason = "an entry point, and the loader's structures")]

use core::ptr::null;

use crate::loader::hook::Raise;
use crate::loader::namespaces::{self, Activity};
use crate::loader::{broken, calls};
use crate::model::agent::Agent;
use crate::runtime::lock::Guard;
use crate::system::{SignalSet, block_signals, is_filtered};

/// The loader calls this through the entry stub, instead of its break function. It returns null, or
/// the error to raise.
///
/// # Safety
/// Only the entry stub calls it; `entry_stack` is where the return address of this call is.
pub unsafe extern "C" fn loader_hook(entry_stack: u64) -> *const Raise {
    let debug = calls::debug();
    namespaces::look_for_namespaces(debug);
    // Three of the four calls for a library that no patch concerns end here. They take no lock and
    // touch no state, so a signal may come at any point; `calls` says what its handler may do.
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
// Not inlined, so that a call that brings nothing needs no stack.
#[inline(never)]
fn something_changed(entry_stack: u64) -> *const Raise {
    // Read only once: a controller may find a filter between the two uses.
    let filtered = is_filtered();
    // A signal handler of the program may call dlopen, which would wait for this very call. Under a
    // filter the agent takes that risk: the filter may forbid blocking signals, and POSIX does not
    // allow dlopen in a signal handler.
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

/// Handles the same event again, after a panic in the middle of it.
#[cfg(feature = "freestanding")]
pub(crate) extern "C" fn begin_again(entry_stack: u64) -> *const Raise {
    something_changed(entry_stack)
}
