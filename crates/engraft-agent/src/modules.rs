//! The agent's registry of modules: what is loaded, and as which core module.

use alloc::vec::Vec;
use core::ops::Range;

use engraft_core::{BuildId, ModuleId};

use crate::elf::LoadedElf;
use crate::failure::Failure;
use crate::loader::{LinkMap, Namespace};

/// One loaded ELF file.
pub(crate) struct Module {
    /// Its name in the core.
    pub id: ModuleId,
    /// Its name in the loader; `None` for a program without a loader.
    link_map: Option<LinkMap>,
    dynamic: u64,
    /// Its headers and symbols.
    pub elf: LoadedElf,
    /// First to last loaded byte.
    pub span: Range<u64>,
    /// `None` if the file has none: then no patch can mean it.
    pub build_id: Option<BuildId>,
    /// The loader's name of it; empty for the main program.
    pub path: Vec<u8>,
    stage: Stage,
}

/// How far the loader is with a module.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Mapped.
    Mapped,
    /// The loader has said "consistent", which it says before or after relocation.
    Consistent,
    /// Relocated and in use.
    Live,
}

impl Module {
    /// Whether the loader means this module. Not by the address of its dynamic section, which is edited
    /// to refuse a load.
    fn is(&self, link_map: LinkMap) -> bool {
        self.link_map == Some(link_map) && self.elf.load_bias == link_map.load_bias()
    }

    /// Whether it is relocated for certain.
    pub(crate) fn is_live(&self) -> bool {
        self.stage == Stage::Live
    }
}

/// All modules.
pub(crate) struct Modules {
    list: Vec<Module>,
    next_id: u32,
    program: LoadedElf,
}

impl Modules {
    /// An empty registry for a process whose main program is `program`.
    pub(crate) fn new(program: LoadedElf) -> Self {
        Self {
            list: Vec::new(),
            next_id: 1,
            program,
        }
    }

    /// The modules, in the order in which they were loaded.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Module> {
        self.list.iter()
    }

    /// The module with this name in the core.
    pub(crate) fn get(&self, id: ModuleId) -> Option<&Module> {
        self.list.iter().find(|module| module.id == id)
    }

    /// Adds the main program of a process without a loader.
    pub(crate) fn add_program(&mut self) -> Result<(), Failure> {
        self.add(None, 0, self.program, b"").map(drop)
    }

    /// Adds an object that the loader lists, unless it is known or has nothing to patch; its core name.
    pub(crate) fn add_if_new(&mut self, link_map: LinkMap) -> Result<Option<ModuleId>, Failure> {
        let dynamic = link_map.dynamic();
        // An object that is listed twice is the loader's mirror of itself in another namespace.
        let known = |module: &Module| module.is(link_map) || module.dynamic == dynamic;
        if dynamic == 0 || self.list.iter().any(known) {
            return Ok(None);
        }
        let bias = link_map.load_bias();
        let name = link_map.name();
        let is_program = name.is_empty() && bias == self.program.load_bias;
        let elf = if is_program {
            Some(self.program)
        } else {
            LoadedElf::find(bias, dynamic)
        };
        let Some(elf) = elf else { return Ok(None) };
        self.add(Some(link_map), dynamic, elf, name).map(Some)
    }

    fn add(
        &mut self,
        link_map: Option<LinkMap>,
        dynamic: u64,
        elf: LoadedElf,
        name: &[u8],
    ) -> Result<ModuleId, Failure> {
        let mut path = Vec::new();
        path.try_reserve_exact(name.len())
            .map_err(|_| Failure::out_of_memory())?;
        path.extend_from_slice(name);
        self.list
            .try_reserve(1)
            .map_err(|_| Failure::out_of_memory())?;
        let id = ModuleId(self.next_id);
        self.next_id += 1;
        let (span, build_id) = (elf.span(), elf.build_id());
        let module = Module {
            id,
            link_map,
            dynamic,
            elf,
            span,
            build_id,
            path,
            stage: Stage::Mapped,
        };
        self.list.push(module);
        Ok(id)
    }

    /// A module that is not what it was, after a time in which nobody looked: not listed any more, or
    /// another file at the same place.
    pub(crate) fn find_changed(&self, debug: u64) -> Option<ModuleId> {
        let changed = |module: &&Module| module.elf.build_id() != module.build_id;
        let found = self.list.iter().find(changed).map(|module| module.id);
        self.find_vanished(debug).or(found)
    }

    /// Changes with every module that is added.
    pub(crate) fn last_id(&self) -> u32 {
        self.next_id
    }

    /// Forgets a module.
    pub(crate) fn remove(&mut self, id: ModuleId) {
        self.list.retain(|module| module.id != id);
    }

    /// A module that the loader does not list any more.
    pub(crate) fn find_vanished(&self, debug: u64) -> Option<ModuleId> {
        let listed = |module: &&Module| {
            let mut link_maps = Namespace::all(debug).flat_map(Namespace::link_maps);
            module.link_map.is_none() || link_maps.any(|link_map| module.is(link_map))
        };
        self.list
            .iter()
            .find(|module| !listed(module))
            .map(|module| module.id)
    }

    /// All modules are in use: nothing is being loaded.
    pub(crate) fn set_live(&mut self) {
        self.list
            .iter_mut()
            .for_each(|module| module.stage = Stage::Live);
    }

    /// The loader has called. What it had called consistent before is relocated by now, since it
    /// relocates either before it says so or right after. `consistent`: it says so now.
    pub(crate) fn advance(&mut self, consistent: bool) {
        for module in &mut self.list {
            module.stage = match module.stage {
                Stage::Mapped if consistent => Stage::Consistent,
                Stage::Mapped => Stage::Mapped,
                Stage::Consistent | Stage::Live => Stage::Live,
            };
        }
    }

    /// The first definition of a symbol, in load order. Only modules in use count: a coming one is not
    /// relocated.
    pub(crate) fn exported_symbol(&self, name: &[u8], version: &[u8]) -> Option<u64> {
        self.list
            .iter()
            .filter(|module| module.is_live())
            .find_map(|module| module.elf.exported_symbol(name, version))
    }
}
