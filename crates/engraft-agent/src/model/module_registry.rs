//! The registry of modules: which ELF files are loaded, and which module of the core each of them
//! is.

use alloc::vec::Vec;
use core::ops::Range;

use engraft_abi::{BuildIdBytes, LoadedModule};
use engraft_core::{BuildId, ModuleId};

use crate::loader::calls;
use crate::loader::elf::{Found, LoadedElf};
use crate::loader::namespaces::{LinkMap, Namespace};
use crate::system::failure::Failure;

/// One loaded ELF file.
pub(crate) struct RegisteredModule {
    /// Its number in the core.
    pub id: ModuleId,
    /// The loader's record of it; `None` for a program without a loader.
    link_map: Option<LinkMap>,
    dynamic: u64,
    /// Its headers and symbols.
    pub elf: LoadedElf,
    /// First to last loaded byte.
    pub span: Range<u64>,
    /// `None` if the file has none: then no patch concerns it.
    pub build_id: Option<BuildId>,
    /// The loader's name of it; empty for the main program.
    pub path: Vec<u8>,
    /// The `_Unwind_Find_FDE` of an unwinder that it does not export; 0 if none is known.
    find_fde: u64,
    /// The number of the loader's call at which it was first seen; `None` if it was in use before.
    seen_at: Option<u64>,
    /// The loader lists it, as far as [`ModuleRegistry::note_listed`] has seen.
    listed: bool,
}

/// What is known of a module before it is added.
struct Known<'a> {
    link_map: Option<LinkMap>,
    dynamic: u64,
    elf: LoadedElf,
    span: Range<u64>,
    build_id: Option<BuildId>,
    path: &'a [u8],
    find_fde: u64,
}

fn build_id(found: &LoadedModule) -> Option<BuildId> {
    let BuildIdBytes { bytes, length } = &found.build_id;
    BuildId::new(bytes.get(..*length as usize)?)
}

impl RegisteredModule {
    /// Whether `link_map` is this module's. The address of its dynamic section does not count,
    /// because a refusal changes it.
    fn is(&self, link_map: LinkMap) -> bool {
        self.link_map == Some(link_map) && self.elf.load_bias == link_map.load_bias()
    }

    /// The `_Unwind_Find_FDE` of its unwinder, if it has one.
    pub(crate) fn find_fde(&self) -> Option<u64> {
        if self.find_fde != 0 {
            return Some(self.find_fde);
        }
        // Looking a symbol up takes many system calls, too many for every library that comes.
        let name = self.path.rsplit(|byte| *byte == b'/').next()?;
        name.starts_with(b"libgcc_s").then_some(())?;
        self.elf.exported_function(b"_Unwind_Find_FDE", b"GCC_3.0")
    }

    /// Whether it is relocated for certain: see [`calls::is_relocated`].
    pub(crate) fn is_live(&self) -> bool {
        self.seen_at.is_none_or(calls::is_relocated)
    }
}

/// All modules.
pub(crate) struct ModuleRegistry {
    list: Vec<RegisteredModule>,
    next_id: u32,
    program: LoadedElf,
    /// The numbers of the modules that were new at the loader's last call.
    pub added_last: Range<u32>,
}

impl ModuleRegistry {
    /// An empty registry for a process whose main program is `program`.
    pub(crate) fn new(program: LoadedElf) -> Self {
        Self {
            list: Vec::new(),
            next_id: 1,
            program,
            added_last: 0..0,
        }
    }

    /// The modules, in the order in which they were loaded.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &RegisteredModule> {
        self.list.iter()
    }

    /// The module with this number in the core.
    pub(crate) fn get(&self, id: ModuleId) -> Option<&RegisteredModule> {
        self.list.iter().find(|module| module.id == id)
    }

    /// A registered module that the controller has not found: it is not loaded any more, or another
    /// file is at its place.
    pub(crate) fn find_missing(&self, found: &[LoadedModule]) -> Option<ModuleId> {
        let same = |module: &RegisteredModule, found: &LoadedModule| {
            module.link_map.map_or(0, |map| map.0) == found.link_map
                && module.elf.load_bias == found.load_bias
                && module.dynamic == found.dynamic
                && module.build_id == build_id(found)
        };
        let mut list = self.list.iter();
        let missing = list.find(|module| !found.iter().any(|found| same(module, found)));
        missing.map(|module| module.id)
    }

    /// Adds a module that the controller has found, unless it is known. Its path refers to `list`.
    pub(crate) fn adopt(&mut self, found: &LoadedModule, list: &[u8]) -> Result<(), Failure> {
        let link_map = (found.link_map != 0).then_some(LinkMap(found.link_map));
        let known = |module: &RegisteredModule| {
            module.link_map == link_map && module.elf.load_bias == found.load_bias
        };
        if self.list.iter().any(known) {
            return Ok(());
        }
        let elf = LoadedElf::with_program_headers(
            found.load_bias,
            found.program_headers,
            found.program_header_count,
        );
        let path = found.path.of(list).ok_or_else(Failure::bad_payload)?;
        self.push(Known {
            link_map,
            dynamic: found.dynamic,
            elf,
            span: found.start..found.end,
            build_id: build_id(found),
            path,
            find_fde: found.find_fde,
        })
        .map(drop)
    }

    /// Adds an object that the loader lists, and returns its number in the core. `None` if it is
    /// known, or has nothing to patch. `hint` is as for [`Self::position`].
    pub(crate) fn add_if_new(
        &mut self,
        link_map: LinkMap,
        hint: &mut usize,
    ) -> Result<Option<ModuleId>, Failure> {
        let dynamic = link_map.dynamic();
        // The loader lists itself once more in other namespaces.
        let mirror = |module: &RegisteredModule| module.dynamic == dynamic;
        if dynamic == 0 || self.position(link_map, hint).is_some() || self.list.iter().any(mirror) {
            return Ok(None);
        }
        let bias = link_map.load_bias();
        let name = link_map.name();
        let found = match name.is_empty() && bias == self.program.load_bias {
            true => Some(self.program.examine()),
            false => LoadedElf::find(bias, dynamic),
        };
        let Some(Found {
            elf,
            span,
            build_id,
        }) = found
        else {
            // Perhaps it is not mapped yet.
            calls::look_again();
            return Ok(None);
        };
        let module = Known {
            link_map: Some(link_map),
            dynamic,
            elf,
            span,
            build_id,
            path: name,
            find_fde: 0,
        };
        self.push(module).map(Some)
    }

    fn push(&mut self, known: Known<'_>) -> Result<ModuleId, Failure> {
        let mut path = Vec::new();
        path.try_reserve_exact(known.path.len())
            .map_err(|_| Failure::out_of_memory())?;
        path.extend_from_slice(known.path);
        self.list
            .try_reserve(1)
            .map_err(|_| Failure::out_of_memory())?;
        let id = ModuleId(self.next_id);
        self.next_id += 1;
        let module = RegisteredModule {
            id,
            link_map: known.link_map,
            dynamic: known.dynamic,
            elf: known.elf,
            span: known.span,
            build_id: known.build_id,
            path,
            find_fde: known.find_fde,
            seen_at: Some(calls::number()),
            listed: true,
        };
        self.list.push(module);
        Ok(id)
    }

    /// The number of the next module that is added.
    pub(crate) fn next_id(&self) -> u32 {
        self.next_id
    }

    /// Forgets a module.
    pub(crate) fn remove(&mut self, id: ModuleId) {
        self.list.retain(|module| module.id != id);
    }

    /// The index of a link map's module. The loader's lists have almost the same order as this one.
    /// So `hint`, the index after the last module that was found, is mostly right.
    fn position(&self, link_map: LinkMap, hint: &mut usize) -> Option<usize> {
        let is = |module: &RegisteredModule| module.is(link_map);
        let position = match self.list.get(*hint).is_some_and(is) {
            true => *hint,
            false => self.list.iter().position(is)?,
        };
        *hint = position + 1;
        Some(position)
    }

    /// Notes which modules the loader lists.
    pub(crate) fn note_listed(&mut self, debug: u64) {
        for module in &mut self.list {
            module.listed = module.link_map.is_none();
        }
        let mut hint = 0;
        for namespace in Namespace::all(debug) {
            for link_map in namespace.link_maps() {
                let position = self.position(link_map, &mut hint);
                if let Some(module) = position.and_then(|position| self.list.get_mut(position)) {
                    module.listed = true;
                }
            }
        }
    }

    /// A module that the loader does not list any more.
    pub(crate) fn find_vanished(&self) -> Option<ModuleId> {
        let vanished = self.list.iter().find(|module| !module.listed);
        vanished.map(|module| module.id)
    }

    /// Notes that all modules are in use: no load is under way.
    pub(crate) fn set_live(&mut self) {
        self.list
            .iter_mut()
            .for_each(|module| module.seen_at = None);
    }

    /// The first definition of a symbol, in load order. A module that is coming does not count,
    /// because it is not relocated.
    pub(crate) fn exported_symbol(&self, name: &[u8], version: &[u8]) -> Option<u64> {
        self.list
            .iter()
            .filter(|module| module.is_live())
            .find_map(|module| module.elf.exported_symbol(name, version))
    }
}
