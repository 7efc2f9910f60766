//! The agent's one lock, the kernel's `klp_mutex`. Enabling, disabling, and modules that come and
//! go exclude each other. The lock protects all of the agent's state, and its heap.
//!
//! A command of a controller must not wait for the lock, because the holder may be a thread that
//! the controller has stopped. It answers "busy". The loader's hook waits: a holder is in the hook
//! too, or in a command, and neither takes long nor needs the loader.

#![expect(
    unsafe_code,
    reason = "the lock hands out a reference to the state behind it"
)]

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::loader::broken;
use crate::model::agent::Agent;
use crate::system::{self, SignalSet};

/// Stands for the process's number where a filter may forbid asking for it. A child that another
/// thread forks meanwhile cannot tell that this holder does not exist in it. But the holder is
/// inside the loader, whose own lock the child has inherited as well.
const UNKNOWN_PROCESS: u64 = u64::MAX;

/// Number of the process whose thread holds the lock; 0 if no thread does. By the number a forked
/// child sees that the holder of the lock which it has inherited does not exist in it.
static HOLDER: AtomicU64 = AtomicU64::new(0);

/// Address of the return address of the holder's entry point. A panic goes back there.
static ENTRY_STACK: AtomicU64 = AtomicU64::new(0);

/// The signals that the holder's thread had blocked before. A panic restores them if
/// [`SIGNALS_KNOWN`] is set. In a command, the signal frame of the remote call restores them.
static SIGNALS: AtomicU64 = AtomicU64::new(0);

/// Whether [`SIGNALS`] is to be restored.
static SIGNALS_KNOWN: AtomicBool = AtomicBool::new(false);

/// The holder is in the loader's hook, not in a command.
static BY_LOADER: AtomicBool = AtomicBool::new(false);

/// The state behind the lock cannot be trusted any more.
static BROKEN: AtomicBool = AtomicBool::new(false);

struct State(UnsafeCell<Option<Agent>>);

// SAFETY: the state is only reached through a `Guard`, of which there is one at a time.
unsafe impl Sync for State {}

static STATE: State = State(UnsafeCell::new(None));

/// Address of the word that is 0 while no thread holds the lock. Controllers read it from outside.
pub(crate) fn holder_address() -> u64 {
    (&raw const HOLDER).expose_provenance() as u64
}

/// The right to use the agent's state.
pub(crate) struct Guard(());

impl Guard {
    /// Takes the lock if it is free. `signals`: the signals that the thread had blocked before, if
    /// the agent has to restore them. `filtered`: the calling thread runs under a seccomp filter.
    pub(crate) fn try_acquire(
        entry_stack: u64,
        signals: Option<SignalSet>,
        filtered: bool,
    ) -> Option<Self> {
        Self::try_acquire_as(0, entry_stack, signals, filtered)
    }

    /// The same; `process` is the process's number, or 0 if it is not known.
    pub(crate) fn try_acquire_as(
        process: u64,
        entry_stack: u64,
        signals: Option<SignalSet>,
        filtered: bool,
    ) -> Option<Self> {
        let own = match (filtered, process) {
            (true, _) => UNKNOWN_PROCESS,
            (false, 0) => system::process_id() as u64,
            (false, process) => process,
        };
        // ORDERING: Acquire pairs with the Release in `drop`: what the last holder wrote is
        // visible.
        let taken = HOLDER.compare_exchange(0, own, Ordering::Acquire, Ordering::Relaxed);
        if let Err(holder) = taken {
            if [holder, own].contains(&UNKNOWN_PROCESS) || holder == own {
                return None;
            }
            // This process was forked while a thread of its parent held the lock. That thread does
            // not exist here, and its work is half done.
            // ORDERING: as above. The exchange fails if another thread of this process was faster.
            HOLDER
                .compare_exchange(holder, own, Ordering::Acquire, Ordering::Relaxed)
                .ok()?;
            // ORDERING: read by later holders only, after an Acquire of the lock.
            BROKEN.store(true, Ordering::Relaxed);
            broken::declare();
        }
        // ORDERING: these four are read only by this same thread, in `declare_broken`.
        BY_LOADER.store(false, Ordering::Relaxed);
        // ORDERING: as above.
        ENTRY_STACK.store(entry_stack, Ordering::Relaxed);
        SIGNALS.store(signals.map_or(0, SignalSet::bits), Ordering::Relaxed);
        SIGNALS_KNOWN.store(signals.is_some(), Ordering::Relaxed);
        system::set_caller(own, filtered);
        Some(Self(()))
    }

    /// Takes the lock, waiting for it.
    pub(crate) fn acquire(entry_stack: u64, signals: Option<SignalSet>, filtered: bool) -> Self {
        loop {
            if let Some(guard) = Self::try_acquire(entry_stack, signals, filtered) {
                // ORDERING: read only by this same thread, in `declare_broken`.
                BY_LOADER.store(true, Ordering::Relaxed);
                return guard;
            }
            match filtered {
                true => core::hint::spin_loop(),
                false => system::yield_now(),
            }
        }
    }

    /// The state; `None` before it is installed, or if it is broken.
    pub(crate) fn agent(&mut self) -> Option<&mut Agent> {
        if self.is_broken() {
            return None;
        }
        // SAFETY: this guard is the only one, and it is borrowed as long as the reference lives.
        unsafe { &mut *STATE.0.get() }.as_mut()
    }

    /// Whether the state cannot be trusted.
    pub(crate) fn is_broken(&self) -> bool {
        // ORDERING: written by a holder of the lock before it released it.
        BROKEN.load(Ordering::Relaxed)
    }

    /// Sets the state.
    pub(crate) fn install(&mut self, agent: Agent) -> &mut Agent {
        // SAFETY: this guard is the only one, and it is borrowed as long as the reference lives.
        let state = unsafe { &mut *STATE.0.get() };
        state.insert(agent)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // ORDERING: Release pairs with the Acquire in `try_acquire`.
        HOLDER.store(0, Ordering::Release);
    }
}

/// How a holder that has panicked goes back to its caller.
#[cfg(feature = "freestanding")]
pub(crate) struct WayBack {
    /// Address of the return address of its entry point.
    pub stack: u64,
    /// The holder is the loader's hook, for the first time: it handles the event again, as a broken
    /// agent.
    pub again: bool,
    /// The holder is a command.
    pub is_command: bool,
}

/// After a panic of the holder: marks the agent as broken, releases the lock, and says how to go
/// back.
#[cfg(feature = "freestanding")]
pub(crate) fn declare_broken() -> WayBack {
    // ORDERING: visible to the next holder by the Release below.
    let was_broken = BROKEN.swap(true, Ordering::Relaxed);
    // ORDERING: these four were written by this thread in `try_acquire_as` and `acquire`.
    let by_loader = BY_LOADER.load(Ordering::Relaxed);
    // ORDERING: as above.
    let stack = ENTRY_STACK.load(Ordering::Relaxed);
    // ORDERING: as above.
    let signals = SignalSet::from_bits(SIGNALS.load(Ordering::Relaxed));
    // ORDERING: as above.
    let known = SIGNALS_KNOWN.load(Ordering::Relaxed);
    let again = by_loader && !was_broken;
    if !was_broken {
        broken::declare();
    }
    if again {
        broken::begin_event_again();
    }
    if !by_loader {
        broken::respond();
    }
    // ORDERING: Release pairs with the Acquire in `try_acquire`.
    HOLDER.store(0, Ordering::Release);
    if known {
        system::block_signals(signals);
    }
    WayBack {
        stack,
        again,
        is_command: !by_loader,
    }
}
