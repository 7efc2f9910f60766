//! The dynamic loader's lists, as they are in memory: `r_debug` and the link maps of all
//! namespaces.
//!
//! What they say is read by [`engraft_elf`]. Of the private part of glibc's `link_map` only
//! `l_info` is used, which follows the public part by three words in glibc 2.26 to 2.43.

#![expect(unsafe_code, reason = "reads and edits the loader's structures")]

use core::convert::Infallible;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use engraft_elf::limits::NAMESPACES;
use engraft_elf::{DebugInterface, LoaderState, R_STATE, ReadMemory, find_twins};
use object::elf;

use crate::system::memory::{c_string, copy, probe, read};

/// `r_state`: no load or unload under way.
const CONSISTENT: u32 = 0;

/// The number of namespaces besides the base one that a loader can have (glibc's `DL_NNS`).
const MOST_UNCHAINED: usize = 15;

/// Start and end of what contains the `r_debug`s of namespaces that the loader does not chain.
static PLACE: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// Those that were found there, by ascending address; 0 where there is none. They never go, and
/// later ones lie behind.
static UNCHAINED: [AtomicU64; MOST_UNCHAINED] = [const { AtomicU64::new(0) }; MOST_UNCHAINED];

/// The loader's own structures, where they are. Each exists and is not changed while it is read: an
/// `r_debug` exists as long as the loader; what may be one lies in a variable of the loader; link
/// maps are changed only under the loader's lock, which the hook's caller holds, or no load is
/// under way and all threads are stopped.
struct LoaderMemory;

impl ReadMemory for LoaderMemory {
    type Error = Infallible;

    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), Infallible> {
        // SAFETY: only addresses that the loader leads to are read here; see the type.
        unsafe { copy(address, buffer) };
        Ok(())
    }
}

/// Says where namespaces are that the loader does not chain. Before its first call.
pub(crate) fn set_unchained(debug: u64, [start, end]: [u64; 2]) {
    // ORDERING: the code that makes the loader call is written later.
    PLACE[0].store(start, Ordering::Relaxed);
    // ORDERING: as above.
    PLACE[1].store(end, Ordering::Relaxed);
    // ORDERING: as above.
    WAS_KNOWN.store(false, Ordering::Relaxed);
    look_for_namespaces(debug);
}

/// The last call was about a namespace that is known.
static WAS_KNOWN: AtomicBool = AtomicBool::new(false);

/// Finds namespaces that are new. To be called at every call of the loader's, before the namespaces
/// are gone along.
///
/// A loader that chains them has nothing to look for. In others, the namespace that a call is about
/// is not consistent when something begins, and in the next call it has ended. So nothing is looked
/// for while a known one is not consistent, nor in the call after: that costs too much for every
/// library that comes and goes, also with glibc from 2.35 on, which does not chain its only
/// namespace to anything either. Should the loader leave the second call out, what is missed is the
/// beginning of a load; these loaders relocate after its end.
pub(crate) fn look_for_namespaces(debug: u64) {
    let base = Namespace(debug).interface();
    if base.is_chained() {
        return;
    }
    let is_known = !matches!(Activity::of(debug), Activity::None);
    // ORDERING: under the loader's lock, which orders the calls of different threads. Whole calls
    // in the middle of this one, in a signal handler, leave it as they found it.
    let was_known = WAS_KNOWN.swap(is_known, Ordering::Relaxed);
    if is_known || was_known {
        return;
    }
    // ORDERING: written before the loader's first call, and not changed while there can be calls.
    let start = PLACE[0].load(Ordering::Relaxed);
    // ORDERING: as above.
    let end = PLACE[1].load(Ordering::Relaxed);
    let Ok(twins) = find_twins(&LoaderMemory, base, start..end) else {
        return;
    };
    for (place, Ok(twin)) in UNCHAINED.iter().zip(twins) {
        // ORDERING: as above. Calls in the middle of this one write the same, and perhaps more.
        place.store(twin.address, Ordering::Relaxed);
    }
}

/// One namespace of the loader: `struct r_debug`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Namespace(u64);

impl Namespace {
    /// The namespaces, from the base one at `debug` on.
    pub(crate) fn all(debug: u64) -> impl Iterator<Item = Self> {
        let base = Self(debug);
        // A static program has no loader.
        let all = core::iter::successors((debug != 0).then_some(base), move |it| it.next(base));
        all.take(NAMESPACES)
    }

    // Not inlined: everything that is read of a namespace comes from here.
    #[inline(never)]
    fn interface(self) -> DebugInterface {
        let Ok(interface) = DebugInterface::read(&LoaderMemory, self.0);
        interface
    }

    /// The one after this.
    // Not inlined, because everybody who goes along the namespaces comes here.
    #[inline(never)]
    fn next(self, base: Self) -> Option<Self> {
        let next = if base.interface().is_chained() {
            let Ok(next) = self.interface().next(&LoaderMemory);
            next?
        } else {
            // ORDERING: as in `look_for_namespaces`.
            let mut known = UNCHAINED.iter().map(|it| it.load(Ordering::Relaxed));
            if self != base {
                known.find(|it| *it == self.0)?;
            }
            known.next().filter(|next| *next != 0)?
        };
        Some(Self(next))
    }

    fn state(self) -> LoaderState {
        self.interface().state
    }

    /// Makes the loader call its hook again for the next object of the load that is under way:
    /// glibc from 2.35 on calls it only when the state changes from consistent to adding.
    ///
    /// # Safety
    /// Only from the hook, that is, under the loader's lock.
    unsafe fn set_consistent(self) {
        let state = core::ptr::with_exposed_provenance_mut::<u32>((self.0 + R_STATE) as usize);
        // SAFETY: the loader waits for the hook; the field is an aligned int.
        unsafe { state.write(CONSISTENT) };
    }

    /// `r_map` and what follows it, up to the bound of [`engraft_elf`].
    fn records(self) -> impl Iterator<Item = engraft_elf::LinkMap> {
        let maps = self.interface().link_maps(&LoaderMemory);
        maps.map_while(Result::ok)
    }

    /// The link maps of its objects.
    pub(crate) fn link_maps(self) -> impl Iterator<Item = LinkMap> {
        self.records().map(|record| LinkMap(record.address))
    }
}

/// What the loader is doing, according to all its namespaces.
pub(crate) enum Activity {
    /// Objects are being added to this one.
    Adding(Namespace),
    /// Objects are about to be unmapped.
    Deleting,
    /// All lists are consistent.
    None,
}

impl Activity {
    /// What `r_state` says.
    pub(crate) fn of(debug: u64) -> Self {
        let busy =
            Namespace::all(debug).find(|namespace| namespace.state() != LoaderState::Consistent);
        match busy {
            Some(namespace) if namespace.state() == LoaderState::Adding => Self::Adding(namespace),
            Some(_) => Self::Deleting,
            None => Self::None,
        }
    }

    /// What remains to be done with every call. Whether objects are being added.
    ///
    /// # Safety
    /// Only from the hook, that is, under the loader's lock.
    pub(crate) unsafe fn end_call(&self) -> bool {
        let Self::Adding(namespace) = self else {
            return false;
        };
        // SAFETY: the caller's promise.
        unsafe { namespace.set_consistent() };
        true
    }
}

/// A number that stands for all that the loader lists: another one when an object has come, gone or
/// moved. Never
/// 0. Each word changes all that follows, so two different lists have the same number once in 2^64
///    cases.
pub(crate) fn fingerprint(debug: u64) -> u64 {
    /// 2^64 divided by the golden ratio: an odd number without a pattern.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut print = 0_u64;
    let mut add = |word: u64| print = (print ^ word).wrapping_mul(SPREAD).rotate_left(31);
    for namespace in Namespace::all(debug) {
        add(namespace.0);
        for record in namespace.records() {
            add(record.address);
            add(record.load_bias);
            add(record.dynamic);
        }
    }
    print.max(1)
}

/// Address of the function that the loader calls at every load and unload (`r_brk`).
pub(crate) fn break_function(debug: u64) -> u64 {
    Namespace(debug).interface().breakpoint
}

/// `struct link_map` of one loaded object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinkMap(pub u64);

impl LinkMap {
    // Not inlined: everything that is read of a link map comes from here.
    #[inline(never)]
    fn record(self) -> engraft_elf::LinkMap {
        let Ok(record) = engraft_elf::LinkMap::read(&LoaderMemory, self.0);
        record
    }

    /// `l_addr`.
    pub(crate) fn load_bias(self) -> u64 {
        self.record().load_bias
    }

    /// `l_name`; empty for the main program.
    pub(crate) fn name<'a>(self) -> &'a [u8] {
        match self.name_address() {
            0 => b"",
            // SAFETY: l_name is a C string as long as the link map exists.
            address => unsafe { c_string(address) },
        }
    }

    /// Address of `l_name`'s text.
    pub(crate) fn name_address(self) -> u64 {
        self.record().name
    }

    /// `l_ld`; 0 for the mirrors of the loader itself that older glibcs put into other namespaces,
    /// and for an object that is not mapped yet.
    pub(crate) fn dynamic(self) -> u64 {
        self.record().dynamic
    }

    /// Makes the load that is bringing this object in fail with `message`.
    ///
    /// The object seems to need an empty library, if there is one, and a library whose name is the
    /// message; glibc does not find that, says so, and undoes the load by itself, before any
    /// relocation. `message` must contain a slash (no search path is tried then) and no dollar
    /// sign. False if the object does not look as expected: then nothing was changed.
    ///
    /// # Safety
    /// Only from the hook, while this object is being added; `message` and `empty_library` must
    /// outlive the load.
    pub(crate) unsafe fn poison(
        self,
        empty_library: Option<*const u8>,
        message: *const u8,
        needed: &'static PoisonedDynamic,
    ) -> bool {
        const INFO: u64 = 64;
        const DT_NEEDED: u64 = elf::DT_NEEDED as u64;
        const DT_STRTAB: u64 = elf::DT_STRTAB as u64;
        // SAFETY: the loader's lock is held, and glibc's link maps have this field.
        let entry = unsafe { read(self.0 + INFO + DT_STRTAB * 8) };
        let Some([tag, value]) = probe::<[u64; 2]>(entry) else {
            return false;
        };
        if tag != DT_STRTAB {
            return false;
        }
        let bias = self.load_bias();
        let strings = if value >= bias {
            value
        } else {
            bias.wrapping_add(value)
        };
        let need = |name: *const u8| {
            let offset = (name.expose_provenance() as u64).wrapping_sub(strings);
            [DT_NEEDED, offset]
        };
        let needed = match empty_library {
            Some(empty_library) => needed.set([need(empty_library), need(message)]),
            None => needed.set([need(message), [0, 0]]),
        };
        for offset in [INFO + DT_NEEDED * 8, engraft_elf::LinkMap::DYNAMIC] {
            let field = core::ptr::with_exposed_provenance_mut::<u64>((self.0 + offset) as usize);
            // SAFETY: both are aligned pointer fields of a link map that only the loader's lock
            // protects, which our caller holds.
            unsafe { field.write(needed) };
        }
        true
    }
}

/// A dynamic section with up to two entries.
pub(crate) struct PoisonedDynamic([AtomicU64; 6]);

impl PoisonedDynamic {
    /// An empty one.
    pub(crate) const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; 6])
    }

    /// Whether it is the section at this address.
    pub(crate) fn is_at(&'static self, address: u64) -> bool {
        core::ptr::from_ref(self).expose_provenance() as u64 == address
    }

    /// The address of the section, after it was given its entries.
    fn set(&'static self, entries: [[u64; 2]; 2]) -> u64 {
        for (place, word) in self.0.iter().zip(entries.as_flattened()) {
            // ORDERING: only the thread that holds the loader's lock writes and reads these words;
            // the lock orders one load's use before the next one's.
            place.store(*word, Ordering::Relaxed);
        }
        core::ptr::from_ref(self).expose_provenance() as u64
    }
}
