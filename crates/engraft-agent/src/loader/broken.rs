//! What is left to do when the state behind the lock cannot be trusted any more: after a panic, or in a process that
//! was forked in the middle of the agent's work.
//!
//! Commands are answered with [`Outcome::Broken`](engraft_abi::Outcome::Broken). Libraries cannot be patched any
//! more. So the loader's hook refuses those that enabled patches concern, and counts the loads that it lets in. It
//! uses the words below for that, which are kept up to date while all is well, and no memory of the heap.

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

/// The words of a refusal. With a slash and without `$`, as the loader takes the name of a library.
const MESSAGE: &core::ffi::CStr =
    c"engraft: a patch concerns this library, and the agent that would apply it is broken /";

/// Address of the control block; 0 before the first command.
static CONTROL: AtomicU64 = AtomicU64::new(0);
/// The objects that enabled patches concern.
static CONCERNED: Words = Words::new();
/// The modules of these that were let in.
static PRESENT: Words = Words::new();
/// What the hook's event replaced in [`calls::replace_adding`] before it went wrong.
static WAS_ADDING: AtomicBool = AtomicBool::new(false);
/// The load under way is being refused.
static REFUSED: AtomicBool = AtomicBool::new(false);
/// As the hook has one for its own refusals.
static POISON: PoisonedDynamic = PoisonedDynamic::new();
/// A [`Raise`], word by word.
static RAISE: [AtomicU64; 5] = [const { AtomicU64::new(0) }; 5];

/// A few numbers that are not 0. Those for which there is no room are missing.
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

    /// Forgets those that are not wanted.
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

/// A number that stands for a module of it.
fn module(object: u64, load_bias: u64) -> u64 {
    mix(object, load_bias).max(1)
}

/// The agent has come to life.
pub(crate) fn begin(control: u64) {
    // ORDERING: under the agent's lock.
    CONTROL.store(control, Ordering::Relaxed);
}

/// Keeps the words up to date. For the holder of the agent's lock.
///
/// `objects` are those that enabled patches concern; `modules` are the load bias and the object of all that is loaded.
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

/// Notes what the hook has replaced, so that its event can begin once more.
pub(crate) fn note_event(was_adding: bool) {
    // ORDERING: under the agent's lock.
    WAS_ADDING.store(was_adding, Ordering::Relaxed);
}

/// The command in which it went wrong answers so.
#[cfg(feature = "freestanding")]
pub(crate) fn respond() {
    // ORDERING: under the agent's lock.
    let control = CONTROL.load(Ordering::Relaxed);
    if control != 0 {
        // SAFETY: the first command brought it.
        unsafe { ControlBlock::at(control) }.respond_broken();
    }
}

/// The state is not to be trusted from now on. For the holder of the agent's lock.
pub(crate) fn declare() {
    // ORDERING: under the agent's lock.
    let control = CONTROL.load(Ordering::Relaxed);
    if control != 0 {
        // SAFETY: the first command brought it.
        let control = unsafe { ControlBlock::at(control) };
        control.store(offset_of!(Control, broken), 1);
    }
    // Each call of the loader has to be looked at.
    calls::take_lapsed();
    calls::settle(0, 0);
}

/// The event that has gone wrong begins once more.
#[cfg(feature = "freestanding")]
pub(crate) fn begin_event_again() {
    // ORDERING: under the agent's lock.
    calls::replace_adding(WAS_ADDING.load(Ordering::Relaxed));
}

/// The loader has done something. The error to raise, if it brings something that patches concern.
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
        // The loader does not always say so when it has given a load up; what it refuses is listed until then.
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
    // The main program does not come any more.
    if dynamic == 0 || link_map.name().is_empty() {
        return None;
    }
    let found = LoadedElf::find(link_map.load_bias(), dynamic)?;
    let object = object(found.build_id?);
    CONCERNED.has(object).then_some(object)
}

/// Makes the load fail, as the hook does while all is well.
fn refuse(link_map: LinkMap, activity: &Activity, was_adding: bool) -> *const Raise {
    // ORDERING: under the agent's lock.
    let control = CONTROL.load(Ordering::Relaxed);
    // SAFETY: the hook was installed by a command, which brought it.
    let signal_error = unsafe { ControlBlock::at(control) }.read().signal_error;
    match activity {
        Activity::Adding(_) => {
            // One library that is refused is enough, and there is one dynamic section for it.
            if !is_refusing() {
                // SAFETY: this is the hook, the object is being added, and the message is a constant.
                // If it does not look as expected, it is new once more when the loader says "consistent".
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

/// A load has ended. Those that were let in are counted.
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
