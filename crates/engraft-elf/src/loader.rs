//! What the dynamic loader publishes for debuggers: `struct r_debug` of each namespace, and its
//! link maps.
//!
//! The layouts are the public ones of glibc and musl (`<link.h>`). A loader that chains the
//! namespaces (glibc from 2.35 on) says so by `r_version`; in older ones the `r_debug`s of further
//! namespaces lie in a private variable of the loader. Where in it they are changes with the
//! loader's version, so they are known by what is in them ([`find_twins`]).

use core::mem::offset_of;
use core::ops::Range;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::error::{Error, List, bounded};
use crate::limits::{LINK_MAPS, LOADER_VARIABLES};
use crate::memory::{ReadMemory, structure};

/// `struct r_debug`, without what version 2 adds.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RDebug {
    r_version: u32,
    padding: u32,
    r_map: u64,
    r_brk: u64,
    r_state: u32,
    more_padding: u32,
    r_ldbase: u64,
}

/// Offset of `r_next`, which version 2 of `struct r_debug` adds.
const R_NEXT: u64 = size_of::<RDebug>() as u64;

/// Offset of `r_state` in `struct r_debug`.
pub const R_STATE: u64 = offset_of!(RDebug, r_state) as u64;

/// The public part of `struct link_map`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawLinkMap {
    l_addr: u64,
    l_name: u64,
    l_ld: u64,
    l_next: u64,
    l_prev: u64,
}

/// `r_state`: is the list of link maps being changed?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoaderState {
    /// `RT_CONSISTENT`.
    Consistent,
    /// `RT_ADD`.
    Adding,
    /// `RT_DELETE`.
    Deleting,
}

impl LoaderState {
    fn of(r_state: u32) -> Self {
        match r_state {
            0 => Self::Consistent,
            1 => Self::Adding,
            _ => Self::Deleting,
        }
    }
}

/// What a loader says of one namespace: `struct r_debug`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DebugInterface {
    /// Where it is.
    pub address: u64,
    /// `r_version`: 0 before the loader has run, 2 or more if namespaces are chained.
    pub version: u32,
    /// The first link map.
    pub map: u64,
    /// The function that the loader calls at every change.
    pub breakpoint: u64,
    /// What is going on.
    pub state: LoaderState,
    /// The load bias of the loader itself.
    pub loader_base: u64,
}

impl DebugInterface {
    /// That at `address`.
    ///
    /// # Errors
    /// If the memory cannot be read.
    pub fn read<M>(memory: &M, address: u64) -> Result<Self, M::Error>
    where
        M: ReadMemory + ?Sized,
    {
        let debug: RDebug = structure(memory, address)?;
        Ok(Self {
            address,
            version: debug.r_version,
            map: debug.r_map,
            breakpoint: debug.r_brk,
            state: LoaderState::of(debug.r_state),
            loader_base: debug.r_ldbase,
        })
    }

    /// Whether the loader leads from one namespace to the next one. `r_next` exists only then;
    /// before, other data follows.
    pub fn is_chained(&self) -> bool {
        self.version >= 2
    }

    /// Where the interface of the next namespace is; `None` if there is none, or if they are not
    /// chained.
    ///
    /// # Errors
    /// If the memory cannot be read.
    pub fn next<M>(&self, memory: &M) -> Result<Option<u64>, M::Error>
    where
        M: ReadMemory + ?Sized,
    {
        if !self.is_chained() {
            return Ok(None);
        }
        let next = structure(memory, self.address.wrapping_add(R_NEXT))?;
        Ok((next != 0).then_some(next))
    }

    /// Whether this is the interface of another namespace than `base`. The loader writes the same
    /// break function and the same base address of its own into each when it uses it for the first
    /// time.
    pub fn is_twin_of(&self, base: &Self) -> bool {
        self.breakpoint == base.breakpoint
            && self.loader_base == base.loader_base
            && self.address != base.address
    }

    /// The link maps of the namespace, in the loader's order. The last item is an error if one
    /// cannot be read, or if they do not end.
    pub fn link_maps<'m, M>(&self, memory: &'m M) -> LinkMaps<'m, M>
    where
        M: ReadMemory + ?Sized,
    {
        LinkMaps::new(memory, self.map)
    }
}

/// The interfaces of further namespaces, if the loader does not chain them: those in `place`, which
/// is a variable of the loader.
///
/// # Errors
/// If the place is larger than the loader's variables. An item is an error if the memory cannot be
/// read.
pub fn find_twins<'m, M>(
    memory: &'m M,
    base: DebugInterface,
    place: Range<u64>,
) -> Result<impl Iterator<Item = Result<DebugInterface, M::Error>> + use<'m, M>, Error<M::Error>>
where
    M: ReadMemory + ?Sized,
{
    const STEP: usize = align_of::<RDebug>();
    let length = bounded(
        place.start,
        place.end.saturating_sub(place.start),
        LOADER_VARIABLES,
    )?;
    let offsets = 0..(length + 1).saturating_sub(R_NEXT);
    let all = offsets
        .step_by(STEP)
        .map(move |offset| DebugInterface::read(memory, place.start.wrapping_add(offset)));
    Ok(all.filter(move |found| match found {
        Ok(found) => found.is_twin_of(&base),
        Err(_) => true,
    }))
}

/// One loaded object of the loader's list: `struct link_map`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkMap {
    /// Where it is.
    pub address: u64,
    /// `l_addr`: difference between addresses in the process and link-time addresses.
    pub load_bias: u64,
    /// `l_name`: where the object's name is.
    pub name: u64,
    /// `l_ld`: where the object's dynamic section is.
    pub dynamic: u64,
    /// `l_next`.
    pub next: u64,
    /// `l_prev`.
    pub previous: u64,
}

impl LinkMap {
    /// Offset of `l_ld`.
    pub const DYNAMIC: u64 = offset_of!(RawLinkMap, l_ld) as u64;

    /// That at `address`.
    ///
    /// # Errors
    /// If the memory cannot be read.
    pub fn read<M>(memory: &M, address: u64) -> Result<Self, M::Error>
    where
        M: ReadMemory + ?Sized,
    {
        let map: RawLinkMap = structure(memory, address)?;
        Ok(Self {
            address,
            load_bias: map.l_addr,
            name: map.l_name,
            dynamic: map.l_ld,
            next: map.l_next,
            previous: map.l_prev,
        })
    }
}

/// Goes through the link maps of one namespace.
pub struct LinkMaps<'m, M: ?Sized> {
    memory: &'m M,
    next: u64,
    left: usize,
}

impl<'m, M: ReadMemory + ?Sized> LinkMaps<'m, M> {
    /// Begins with the link map at `first`; there is none if that is 0.
    pub fn new(memory: &'m M, first: u64) -> Self {
        Self {
            memory,
            next: first,
            left: LINK_MAPS,
        }
    }
}

impl<M: ReadMemory + ?Sized> Iterator for LinkMaps<'_, M> {
    type Item = Result<LinkMap, Error<M::Error>>;

    // Not inlined: the agent goes through link maps in many places, and is to be small.
    #[inline(never)]
    fn next(&mut self) -> Option<Self::Item> {
        if self.next == 0 {
            return None;
        }
        let map = match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                LinkMap::read(self.memory, self.next).map_err(Error::Memory)
            }
            None => Err(Error::Endless {
                list: List::LinkMaps,
                limit: LINK_MAPS,
            }),
        };
        self.next = map.as_ref().map_or(0, |map| map.next);
        Some(map)
    }
}
