//! What the agent still does when the state behind its lock cannot be trusted: after a panic, or in
//! a process that was forked in the middle of the agent's work.
//!
//! Commands are answered with [`Outcome::Broken`](engraft_abi::Outcome::Broken). Libraries cannot
//! be patched any more. So the loader's hook refuses every library that an enabled patch concerns,
//! and counts the loads that it lets in. For that it uses the statics below, which are kept up to
//! date before anything goes wrong. It uses no heap memory.

#![expect(unsafe_code, reason = "refuses loads, as the hook does")]

use core::mem::offset_of;
use core::ptr::null;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use engraft_abi::Control;
use engraft_core::BuildId;

use crate::loader::calls;
use crate::loader::elf::LoadedElf;
use crate::loader::hook::Raise;
use crate::loader::namespaces::{Activity, LinkMap, Namespace, PoisonedDynamic};
use crate::system::control::ControlBlock;

/// The reason of a refusal. It has a slash and no `$`, because the loader takes it for a library's
/// name.
const MESSAGE: &core::ffi::CStr =
    c"engraft: a patch concerns this library, and the agent that would apply it is broken /";

/// Address of the control block; 0 before the first command.
static CONTROL: AtomicU64 = AtomicU64::new(0);
/// Numbers of the objects that enabled patches concern.
static CONCERNED: Words = Words::new();
/// Numbers of the loaded modules of these objects.
static PRESENT: Words = Words::new();
/// What [`calls::replace_adding`] returned in the event that is being handled.
static WAS_ADDING: AtomicBool = AtomicBool::new(false);
/// The load under way is being refused.
static REFUSED: AtomicBool = AtomicBool::new(false);
/// The dynamic section that a refused object seems to have.
static POISON: PoisonedDynamic = PoisonedDynamic::new();
/// The error to raise, a [`Raise`] word by word.
static RAISE: [AtomicU64; 5] = [const { AtomicU64::new(0) }; 5];

/// A set of numbers other than 0. Numbers for which there is no room are missing.
struct Words([AtomicU64; 128]);

// ORDERING of all accesses: under the agent's lock, which orders them.
impl Words {
    const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; 128])
    }

    /// Replaces all.
    fn set(&self, words: impl Iterator<Item = u64>) {
        let mut words = words;
        for place in &self.0 {
            // ORDERING: see above.
            place.store(words.next().unwrap_or(0), Ordering::Relaxed);
        }
    }

    fn has(&self, word: u64) -> bool {
        // ORDERING: see above.
        self.0.iter().any(|it| it.load(Ordering::Relaxed) == word)
    }

    /// Keeps only the numbers that are wanted.
    fn retain(&self, wanted: impl Fn(u64) -> bool) {
        for place in &self.0 {
            // ORDERING: see above.
            let word = place.load(Ordering::Relaxed);
            if word != 0 && !wanted(word) {
                // ORDERING: see above.
                place.store(0, Ordering::Relaxed);
            }
        }
    }
}

/// Mixes a word into a number: 2^64 divided by the golden ratio is an odd number without a pattern.
fn mix(number: u64, word: u64) -> u64 {
    (number ^ word)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(31)
}

/// A number that stands for an object.
fn object(build_id: BuildId) -> u64 {
    let bytes = build_id.as_bytes().iter();
    bytes
        .fold(1, |number, byte| mix(number, u64::from(*byte)))
        .max(1)
}

/// A number that stands for a module of an object.
fn module(object: u64, load_bias: u64) -> u64 {
    mix(object, load_bias).max(1)
}

/// Notes the control block. The agent is about to be made.
pub(crate) fn begin(control: u64) {
    // ORDERING: under the agent's lock.
    CONTROL.store(control, Ordering::Relaxed);
}

/// Updates what is known of objects and modules. For the holder of the agent's lock.
///
/// `objects`: every object that an enabled patch concerns. `modules`: the load bias and the object
/// of each loaded module.
pub(crate) fn note(
    objects: impl Iterator<Item = BuildId>,
    modules: impl Iterator<Item = (u64, BuildId)>,
) {
    CONCERNED.set(objects.map(object));
    let concerned = modules.filter_map(|(load_bias, build_id)| {
        let object = object(build_id);
        CONCERNED.has(object).then(|| module(object, load_bias))
    });
    PRESENT.set(concerned);
}

/// Notes what the hook has replaced, so that the event can be handled again after a panic.
pub(crate) fn note_event(was_adding: bool) {
    // ORDERING: under the agent's lock.
    WAS_ADDING.store(was_adding, Ordering::Relaxed);
}

/// Writes the response of the command in which the agent panicked.
#[cfg(feature = "freestanding")]
pub(crate) fn respond() {
    // ORDERING: under the agent's lock.
    let control = CONTROL.load(Ordering::Relaxed);
    if control != 0 {
        // SAFETY: the first command brought it.
        unsafe { ControlBlock::at(control) }.respond_broken();
    }
}

/// Marks the agent as broken. For the holder of the agent's lock.
pub(crate) fn declare() {
    // ORDERING: under the agent's lock.
    let control = CONTROL.load(Ordering::Relaxed);
    if control != 0 {
        // SAFETY: the first command brought it.
        let control = unsafe { ControlBlock::at(control) };
        control.store(offset_of!(Control, broken), 1);
    }
    // From now on each call of the loader has to be looked at.
    calls::take_lapsed();
    calls::set_known(0, 0);
}

/// Restores what the event in which the agent panicked has replaced.
#[cfg(feature = "freestanding")]
pub(crate) fn begin_event_again() {
    // ORDERING: under the agent's lock.
    calls::replace_adding(WAS_ADDING.load(Ordering::Relaxed));
}

/// Handles a call of the loader. Returns the error to raise, if it brings a module that patches
/// concern.
pub(crate) fn loader_event() -> *const Raise {
    let debug = calls::debug();
    let activity = Activity::of(debug);
    calls::count(matches!(activity, Activity::None));
    let was_adding = calls::replace_adding(false);
    let all = || Namespace::all(debug).flat_map(Namespace::link_maps);
    PRESENT.retain(|known| {
        all().any(|link_map| {
            concerned(link_map).is_some_and(|object| module(object, link_map.load_bias()) == known)
        })
    });
    let mut raise: *const Raise = null();
    for link_map in all() {
        let is_new = concerned(link_map)
            .is_some_and(|object| !PRESENT.has(module(object, link_map.load_bias())));
        if is_new && raise.is_null() {
            raise = refuse(link_map, &activity, was_adding);
        }
    }
    match activity {
        // Some loaders do not call when a load has failed. A refused module is listed until then.
        Activity::Adding(_) => {
            // ORDERING: under the agent's lock.
            REFUSED.store(is_refusing(), Ordering::Relaxed);
        }
        Activity::None if was_adding => count(!raise.is_null()),
        Activity::None | Activity::Deleting => {}
    }
    // SAFETY: this is the hook.
    calls::replace_adding(unsafe { activity.end_call() });
    raise
}

/// Whether a library that is listed is refused.
fn is_refusing() -> bool {
    let mut all = Namespace::all(calls::debug()).flat_map(Namespace::link_maps);
    all.any(|link_map| POISON.is_at(link_map.dynamic()))
}

/// A number that stands for the object, if patches concern it.
fn concerned(link_map: LinkMap) -> Option<u64> {
    let dynamic = link_map.dynamic();
    // The main program was loaded before the agent.
    if dynamic == 0 || link_map.name().is_empty() {
        return None;
    }
    let found = LoadedElf::find(link_map.load_bias(), dynamic)?;
    let object = object(found.build_id?);
    CONCERNED.has(object).then_some(object)
}

/// Makes the load fail, in the same ways as [`Hook`](crate::loader::hook::Hook).
fn refuse(link_map: LinkMap, activity: &Activity, was_adding: bool) -> *const Raise {
    // ORDERING: under the agent's lock.
    let control = CONTROL.load(Ordering::Relaxed);
    // SAFETY: the hook was installed by a command, which brought it.
    let signal_error = unsafe { ControlBlock::at(control) }.read().signal_error;
    match activity {
        Activity::Adding(_) => {
            // One refused library is enough, and there is only one dynamic section for it.
            if !is_refusing() {
                // SAFETY: this is the hook, the object is being added, and the message is a
                // constant. If it does not look as expected, it is refused when the loader says
                // "consistent".
                unsafe { link_map.poison(None, MESSAGE.as_ptr().cast(), &POISON) };
            }
            null()
        }
        Activity::None if was_adding && signal_error != 0 => {
            let text = MESSAGE.as_ptr().expose_provenance() as u64;
            let words = [0, link_map.name_address(), 0, text, signal_error];
            for (place, word) in RAISE.iter().zip(words) {
                // ORDERING: read by this thread.
                place.store(word, Ordering::Relaxed);
            }
            (&raw const RAISE).cast()
        }
        Activity::None | Activity::Deleting => null(),
    }
}

/// Counts a load that has ended, unless it was refused.
fn count(refused: bool) {
    // ORDERING: under the agent's lock.
    let refused = REFUSED.swap(false, Ordering::Relaxed) || refused;
    // ORDERING: as above.
    let control = CONTROL.load(Ordering::Relaxed);
    if !refused {
        // SAFETY: as in `refuse`.
        let control = unsafe { ControlBlock::at(control) };
        control.store(
            offset_of!(Control, loads_since),
            control.read().loads_since.saturating_add(1),
        );
    }
}
