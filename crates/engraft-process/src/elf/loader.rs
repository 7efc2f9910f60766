//! What the dynamic loader publishes for debuggers: `r_debug` and the link maps.

use std::ops::Range;

use engraft_elf::limits::{LINK_MAPS, LOADER_VARIABLES, NAMESPACES};
use engraft_elf::{Error, LinkMaps, List, LoaderState, find_twins};
use object::elf;

use crate::elf::modules::{Module, ModuleError};
use crate::elf::reading::{in_one_piece, memory_error};
use crate::elf::symbols::DynamicSymbols;
use crate::memory::access::{Memory, MemoryError};
use crate::process::limits::{self, NAME};
use crate::sys::address::TargetAddress;

/// One `struct r_debug`: there is one for each namespace.
#[derive(Clone, Copy, Debug)]
pub struct DebugInterface {
    /// Where it is.
    pub address: TargetAddress,
    /// `r_version`: 1, or 2 when further namespaces are chained (glibc 2.35).
    pub version: u32,
    /// The first link map.
    pub map: TargetAddress,
    /// The function that the loader calls at every change (`_dl_debug_state`).
    pub breakpoint: TargetAddress,
    /// What is going on.
    pub state: LoaderState,
    /// The load bias of the loader itself.
    pub loader_base: TargetAddress,
}

/// One `struct link_map`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkMap {
    pub(crate) address: TargetAddress,
    pub(crate) load_bias: u64,
    pub(crate) name: Vec<u8>,
    pub(crate) dynamic: TargetAddress,
    pub(crate) namespace: usize,
    pub(crate) first: bool,
}

/// The dynamic loader of a process, as seen through its debugger interface.
#[derive(Clone, Debug)]
pub struct Loader {
    /// One for each namespace, the program's first.
    pub interfaces: Vec<DebugInterface>,
    unchained: Range<TargetAddress>,
    link_maps: Vec<LinkMap>,
    signal_error: Option<TargetAddress>,
}

impl From<engraft_elf::DebugInterface> for DebugInterface {
    fn from(found: engraft_elf::DebugInterface) -> Self {
        Self {
            address: found.address.into(),
            version: found.version,
            map: found.map.into(),
            breakpoint: found.breakpoint.into(),
            state: found.state,
            loader_base: found.loader_base.into(),
        }
    }
}

/// The address of `r_debug`, from the program's dynamic section or the loader's symbol.
fn find_interface(
    memory: Memory<'_>,
    started: &Module,
    interpreter: Option<&Module>,
) -> Result<Option<TargetAddress>, ModuleError> {
    let dynamic = started.read_dynamic(memory)?;
    let entry = dynamic.and_then(|dynamic| dynamic.get(elf::DT_DEBUG));
    if let Some(at) = entry.filter(|value| *value != 0) {
        return Ok(Some(at.into()));
    }
    // `ld.so ./program`: the kernel started the loader, which has no DT_DEBUG of its own. And a
    // program linked with -z nodt-debug or whose DT_DEBUG is not yet filled.
    let definer = interpreter.unwrap_or(started);
    if let Some(at) = definer.symbol(memory, b"_r_debug")? {
        return Ok(Some(at));
    }
    // musl keeps a pointer to its structure in a variable.
    match definer.symbol(memory, b"_dl_debug_addr")? {
        Some(variable) => {
            let at = memory.read_u64(variable)?;
            Ok((at != 0).then(|| at.into()))
        }
        None => Ok(None),
    }
}

/// All interfaces, the base one first: those of a chain, and those in `unchained`.
fn read_interfaces(
    memory: Memory<'_>,
    first: TargetAddress,
    unchained: &Range<TargetAddress>,
) -> Result<Vec<DebugInterface>, MemoryError> {
    let base = engraft_elf::DebugInterface::read(&memory, first.get())?;
    let mut interfaces = vec![base.into()];
    let mut last = base;
    while let Some(at) = last.next(&memory)? {
        within_namespaces(memory, interfaces.len() + 1)?;
        last = engraft_elf::DebugInterface::read(&memory, at)?;
        interfaces.push(last.into());
    }
    if interfaces.len() == 1 {
        for twin in read_twins(memory, base, unchained)? {
            within_namespaces(memory, interfaces.len() + 1)?;
            interfaces.push(twin.into());
        }
    }
    Ok(interfaces)
}

fn within_namespaces(memory: Memory<'_>, count: usize) -> Result<(), MemoryError> {
    let what = List::Namespaces.name();
    let pid = memory.process().pid();
    Ok(limits::within(pid, what, count, NAMESPACES)?)
}

/// The interfaces of further namespaces, if the loader does not chain them: those in `place`.
fn read_twins(
    memory: Memory<'_>,
    base: engraft_elf::DebugInterface,
    place: &Range<TargetAddress>,
) -> Result<Vec<engraft_elf::DebugInterface>, MemoryError> {
    let (start, length) = (place.start.get(), place.end - place.start);
    // More than is read is refused by the reader.
    let read = length.min(LOADER_VARIABLES);
    in_one_piece(memory, start, read, |window| {
        let twins = find_twins(window, base, start..start.wrapping_add(length))?;
        twins.map(|twin| twin.map_err(Error::Memory)).collect()
    })
}

/// What contains the interfaces of further namespaces if they are not chained: a private variable
/// of glibc. Where they are in it changes with its version.
fn find_unchained(
    memory: Memory<'_>,
    base: &DebugInterface,
    definer: &Module,
) -> Result<Range<TargetAddress>, MemoryError> {
    let found = match base.version {
        1 => definer.symbol_range(memory, b"_rtld_global")?,
        _ => None,
    };
    Ok(found.unwrap_or_default())
}

/// The link maps of all namespaces.
fn read_all_link_maps(
    memory: Memory<'_>,
    interfaces: &[DebugInterface],
) -> Result<Vec<LinkMap>, MemoryError> {
    let mut maps = Vec::new();
    for (namespace, interface) in interfaces.iter().enumerate() {
        read_link_maps(memory, interface, namespace, &mut maps)?;
    }
    Ok(maps)
}

/// The link maps of one namespace. A list that changes while it is read, or is damaged, ends where
/// it stops making sense; `r_state` tells the reader to look again.
fn read_link_maps(
    memory: Memory<'_>,
    interface: &DebugInterface,
    namespace: usize,
    maps: &mut Vec<LinkMap>,
) -> Result<(), MemoryError> {
    let first = maps.len();
    let mut previous = 0;
    for map in LinkMaps::new(&memory, interface.map.get()) {
        let Some(map) = believed(map.map_err(|error| memory_error(memory, error)))? else {
            break;
        };
        // Every entry points back to the one before it: a cycle ends here at once.
        if map.previous != previous {
            break;
        }
        let name = believed(memory.read_string(map.name.into(), NAME))?;
        limits::within(
            memory.process().pid(),
            List::LinkMaps.name(),
            maps.len() + 1,
            LINK_MAPS,
        )?;
        maps.push(LinkMap {
            address: map.address.into(),
            load_bias: map.load_bias,
            name: name.unwrap_or_default(),
            dynamic: map.dynamic.into(),
            namespace,
            first: maps.len() == first,
        });
        previous = map.address;
    }
    Ok(())
}

/// What was read; `None` if it cannot be read because it is damaged or going. A limit ends
/// everything.
fn believed<T>(read: Result<T, MemoryError>) -> Result<Option<T>, MemoryError> {
    match read {
        Err(error) if error.is_limit() => Err(error),
        read => Ok(read.ok()),
    }
}

/// The function that raises a loader error in the running loader.
///
/// In glibc up to 2.36 libc has its own copy and ld.so calls it through its PLT: only that one
/// knows the handler that dlopen has installed; ld.so's own symbol would end the process with
/// status 127. Since 2.39 ld.so has no such slot, and its own symbol is the right one.
fn find_signal_error(
    memory: Memory<'_>,
    definer: &Module,
) -> Result<Option<TargetAddress>, MemoryError> {
    const NAME: &[u8] = b"_dl_signal_error";
    let Some(dynamic) = definer.read_dynamic(memory)? else {
        return Ok(None);
    };
    let Some(symbols) = DynamicSymbols::new(memory, definer, &dynamic)? else {
        return Ok(None);
    };
    match symbols.jump_slot(NAME)? {
        Some(address) => Ok(Some(address)),
        None => Ok(symbols.find(NAME)?.map(|range| range.start)),
    }
}

impl Loader {
    /// Finds the loader of a process that the kernel started with `started` and, unless that is
    /// the loader itself or static, `interpreter`.
    pub(crate) fn find(
        memory: Memory<'_>,
        started: &Module,
        interpreter: Option<&Module>,
    ) -> Result<Option<Self>, ModuleError> {
        let Some(at) = find_interface(memory, started, interpreter)? else {
            return Ok(None);
        };
        let base: DebugInterface = engraft_elf::DebugInterface::read(&memory, at.get())?.into();
        // Not yet initialised: the process is before its loader's first instructions.
        if base.version == 0 {
            return Ok(None);
        }
        let definer = interpreter.unwrap_or(started);
        let unchained = find_unchained(memory, &base, definer)?;
        let interfaces = read_interfaces(memory, at, &unchained)?;
        Ok(Some(Self {
            link_maps: read_all_link_maps(memory, &interfaces)?,
            signal_error: find_signal_error(memory, definer)?,
            interfaces,
            unchained,
        }))
    }

    pub(crate) fn link_maps(&self) -> &[LinkMap] {
        &self.link_maps
    }

    /// Is this module the loader itself?
    pub(crate) fn is_at(&self, module: &Module) -> bool {
        let base = self
            .interfaces
            .first()
            .map(|interface| interface.loader_base);
        base == Some(TargetAddress::new(module.load_bias)) && module.load_bias != 0
    }

    /// The function that the loader calls at every load and unload.
    pub fn breakpoint(&self) -> Option<TargetAddress> {
        self.interfaces
            .first()
            .map(|interface| interface.breakpoint)
    }

    /// Is everything at rest, and are the lists what they were?
    pub(crate) fn is_current(&self, memory: Memory<'_>) -> bool {
        let first = self.interfaces.first().map(|interface| interface.address);
        let read = |first| read_interfaces(memory, first, &self.unchained);
        let Some(Ok(interfaces)) = first.map(read) else {
            return false;
        };
        let rest = |it: &DebugInterface| it.state == LoaderState::Consistent;
        let now = || read_all_link_maps(memory, &interfaces);
        interfaces.iter().all(rest) && now().is_ok_and(|now| now == self.link_maps)
    }

    /// What contains the interfaces of namespaces that are not chained; empty if there cannot be
    /// any.
    pub fn unchained(&self) -> &Range<TargetAddress> {
        &self.unchained
    }

    /// Are all namespaces at rest?
    pub fn is_consistent(&self) -> bool {
        self.interfaces
            .iter()
            .all(|interface| interface.state == LoaderState::Consistent)
    }

    /// `_dl_signal_error(int, const char *object, const char *occasion, const char *text)`, the
    /// one that makes a dlopen in progress fail; `None` with musl and in static programs.
    pub fn signal_error(&self) -> Option<TargetAddress> {
        self.signal_error
    }
}
