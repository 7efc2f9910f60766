//! The ELF files a process consists of, discovered from its memory alone.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use engraft_elf::{Placement, ProgramHeader, ProgramHeaders};
use engraft_machine::BuildId;
use object::elf;

use crate::elf::file_sections::find_function;
use crate::elf::headers::{Dynamic, build_id, file_header, program_headers};
use crate::elf::loader::{LinkMap, Loader};
use crate::elf::symbols::DynamicSymbols;
use crate::memory::access::{Memory, MemoryError};
use crate::memory::maps::{Maps, MapsError};
use crate::process::auxv::AuxiliaryVector;
use crate::process::handle::Process;
use crate::process::limits::{Budget, DISCOVERY_BYTES};
use crate::sys::address::TargetAddress;

/// Why the modules could not be found.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// The process has ended.
    #[error("process {pid} has ended")]
    Gone {
        /// The process.
        pid: i32,
    },
    /// The auxiliary vector does not say where the program is.
    #[error("process {pid} does not say where its program headers are (no AT_PHDR)")]
    NoProgramHeaders {
        /// The process.
        pid: i32,
    },
    /// The program headers do not fit to what is mapped.
    #[error("the program headers of process {pid} at {at} do not fit to its memory map")]
    Inconsistent {
        /// The process.
        pid: i32,
        /// Where they are.
        at: TargetAddress,
    },
    /// The memory could not be read.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The memory map could not be read.
    #[error(transparent)]
    Maps(#[from] MapsError),
    /// The auxiliary vector could not be read.
    #[error("failed to read the auxiliary vector of process {pid}: {source}")]
    System {
        /// The process.
        pid: i32,
        /// What the system said.
        source: io::Error,
    },
}

/// What a module is to its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModuleKind {
    /// The program.
    Program,
    /// The dynamic loader.
    Loader,
    /// A shared library.
    Library,
    /// The code that the kernel maps into every process.
    Vdso,
}

/// One loaded instance of an ELF file.
#[derive(Clone, Debug)]
pub struct Module {
    /// What it is.
    pub kind: ModuleKind,
    /// Its name as the loader has it (empty for the program).
    pub name: OsString,
    /// The file it was mapped from, as the kernel names it, if it was mapped from one.
    pub path: Option<PathBuf>,
    /// What to add to a link-time address to get the address in memory.
    pub load_bias: u64,
    /// Its program headers.
    pub program_headers: Vec<ProgramHeader>,
    /// Its identity.
    pub build_id: Option<BuildId>,
    /// Where the identity was read.
    pub(crate) build_id_at: Option<TargetAddress>,
    /// Its dynamic section, if it has one.
    pub dynamic: Option<TargetAddress>,
    /// The loader's record of it, if the loader has one.
    pub link_map: Option<TargetAddress>,
    /// The namespace it is in: 0, or another one made by dlmopen.
    pub namespace: usize,
}

impl Module {
    /// Where it is loaded.
    pub(crate) fn placement(&self) -> Placement {
        Placement::of(self.load_bias, self.program_headers.iter().copied())
    }

    /// The addresses from its first to its last segment. There may be holes.
    pub fn range(&self) -> Range<TargetAddress> {
        let span = self.placement().span;
        span.start.into()..span.end.into()
    }

    /// The address in memory of a link-time address of this module.
    pub fn address(&self, link_time: u64) -> TargetAddress {
        TargetAddress::new(link_time) + self.load_bias
    }

    /// Does one of its segments contain the address?
    pub fn contains(&self, address: TargetAddress) -> bool {
        let offset = address - TargetAddress::new(self.load_bias);
        let loads = self
            .program_headers
            .iter()
            .filter(|header| header.kind == elf::PT_LOAD);
        loads
            .into_iter()
            .any(|header| offset.wrapping_sub(header.address) < header.memory_size)
    }

    /// The address of a dynamic symbol that this module defines.
    ///
    /// # Errors
    /// The symbol table cannot be read.
    pub fn symbol(
        &self,
        memory: Memory<'_>,
        name: &[u8],
    ) -> Result<Option<TargetAddress>, MemoryError> {
        Ok(self.symbol_range(memory, name)?.map(|range| range.start))
    }

    /// The address and the size of a dynamic symbol that this module defines.
    pub(crate) fn symbol_range(
        &self,
        memory: Memory<'_>,
        name: &[u8],
    ) -> Result<Option<Range<TargetAddress>>, MemoryError> {
        let Some(dynamic) = self.read_dynamic(memory)? else {
            return Ok(None);
        };
        match DynamicSymbols::new(memory, self, &dynamic)? {
            Some(symbols) => symbols.find(name),
            None => Ok(None),
        }
    }

    /// The address of a function that this module, the program, defines, by the symbols in its
    /// file: also those that it does not export. `None` if it has no such function, or no symbols
    /// any more.
    pub fn function(&self, process: &Process, name: &str) -> Option<TargetAddress> {
        find_function(process, self, name)
    }

    /// The address in memory of a pointer in its dynamic section.
    pub(crate) fn dynamic_pointer(&self, value: u64) -> TargetAddress {
        self.placement().dynamic_pointer(value).into()
    }

    pub(crate) fn read_dynamic(&self, memory: Memory<'_>) -> Result<Option<Dynamic>, MemoryError> {
        let header = self
            .program_headers
            .iter()
            .find(|header| header.kind == elf::PT_DYNAMIC);
        match (header, self.dynamic) {
            (Some(header), Some(at)) => Dynamic::read(memory, at, header.memory_size).map(Some),
            _ => Ok(None),
        }
    }
}

/// Everything that was found.
#[derive(Clone, Debug)]
pub struct Modules {
    modules: Vec<Module>,
    loader: Option<Loader>,
}

impl Modules {
    /// The modules: the program first, then what the loader lists, in its order.
    pub fn iter(&self) -> std::slice::Iter<'_, Module> {
        self.modules.iter()
    }

    /// The program.
    pub fn program(&self) -> Option<&Module> {
        self.modules
            .iter()
            .find(|module| module.kind == ModuleKind::Program)
    }

    /// The module in which the address lies.
    pub fn containing(&self, address: TargetAddress) -> Option<&Module> {
        self.modules.iter().find(|module| module.contains(address))
    }

    /// All loaded instances of a file.
    pub fn with_build_id<'m>(&'m self, id: &'m BuildId) -> impl Iterator<Item = &'m Module> {
        self.modules
            .iter()
            .filter(move |module| module.build_id.as_ref() == Some(id))
    }

    /// What the dynamic loader publishes for debuggers. A static program has none, nor has a
    /// process that has not yet left the loader for the first time.
    pub fn loader(&self) -> Option<&Loader> {
        self.loader.as_ref()
    }

    /// Does the loader still list the same modules, with nothing coming or going, and has each the
    /// build-id that was found? A look that costs microseconds. In a process that stands still the
    /// answer is certain. In one that runs, libraries that take turns at one place may hide from
    /// it, but not often.
    pub fn are_current(&self, process: &Process) -> bool {
        let loader = self.loader.as_ref();
        // In this order: a module that was listed with the build-id of another one, which was at
        // its place for a moment, has its own again by now.
        let budget = Budget::new(process.pid(), "bytes of link maps", DISCOVERY_BYTES);
        let memory = Memory::new(process).within(&budget);
        loader.is_none_or(|loader| loader.is_current(memory) && self.have_their_build_ids(memory))
    }

    fn have_their_build_ids(&self, memory: Memory<'_>) -> bool {
        let expected: Vec<_> = self
            .modules
            .iter()
            .filter_map(|module| Some((module.build_id.as_ref()?.as_bytes(), module.build_id_at?)))
            .collect();
        let mut found: Vec<Vec<u8>> = expected.iter().map(|(id, _)| vec![0; id.len()]).collect();
        let places = expected.iter().map(|(_, at)| *at);
        let mut reads: Vec<_> = places
            .zip(found.iter_mut().map(Vec::as_mut_slice))
            .collect();
        let read = memory.read_many(&mut reads);
        let expected = expected.iter().map(|(id, _)| *id);
        read.is_ok() && expected.eq(found.iter().map(Vec::as_slice))
    }

    /// Can the process load a library later, so that it is seen? Not if it is linked statically and
    /// has no dynamic loader. One that has only just started has a loader, though that does not say
    /// anything yet.
    pub fn can_grow(&self) -> bool {
        let is_loader = |module: &Module| module.kind == ModuleKind::Loader;
        self.loader.is_some() || self.modules.iter().any(is_loader)
    }

    pub(crate) fn discover(process: &Process) -> Result<Self, ModuleError> {
        let pid = process.pid();
        let auxv = process.auxiliary_vector();
        if !process.is_alive() {
            return Err(ModuleError::Gone { pid });
        }
        let auxv = auxv
            .map_err(|source| ModuleError::System { pid, source })?
            .ok_or(ModuleError::Gone { pid })?;
        let what = "bytes of headers and link maps";
        let budget = Budget::new(process.pid(), what, DISCOVERY_BYTES);
        let search = Search {
            memory: Memory::new(process).within(&budget),
            maps: Maps::read(process)?,
            auxv,
        };
        let modules = search.run(pid)?;
        // What could not be read was taken for absent.
        budget.check().map_err(MemoryError::from)?;
        search.memory.check_time()?;
        Ok(modules)
    }
}

impl<'m> IntoIterator for &'m Modules {
    type Item = &'m Module;
    type IntoIter = std::slice::Iter<'m, Module>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// What discovery looks at.
struct Search<'p> {
    memory: Memory<'p>,
    maps: Maps,
    auxv: AuxiliaryVector,
}

impl Search<'_> {
    fn run(&self, pid: i32) -> Result<Modules, ModuleError> {
        let started = self.started_by_kernel(pid)?;
        let interpreter = self
            .auxv
            .interpreter()
            .and_then(|at| self.at_header(at, ModuleKind::Loader));
        let loader = Loader::find(self.memory, &started, interpreter.as_ref())?;
        let Some(loader) = loader else {
            let mut modules = vec![started];
            modules.extend(interpreter);
            modules.extend(self.vdso());
            return Ok(Modules {
                modules,
                loader: None,
            });
        };
        let modules = self.listed(&loader, started, interpreter);
        Ok(Modules {
            modules,
            loader: Some(loader),
        })
    }

    /// What the kernel itself started: the program, or the loader when that was named on the
    /// command line (`ld.so ./program`).
    fn started_by_kernel(&self, pid: i32) -> Result<Module, ModuleError> {
        let (at, count) = self
            .auxv
            .program_headers()
            .ok_or(ModuleError::NoProgramHeaders { pid })?;
        let headers = program_headers(self.memory, ProgramHeaders::new(at.get(), count))?;
        let table = headers.iter().find(|header| header.kind == elf::PT_PHDR);
        let bias = match table {
            Some(table) => at - TargetAddress::new(table.address),
            // Static programs of old linkers have no PT_PHDR: take the file's header instead.
            None => self
                .bias_by_file_header(at)
                .ok_or(ModuleError::Inconsistent { pid, at })?,
        };
        Ok(self.module(ModuleKind::Program, headers, bias))
    }

    /// The load bias, from the file header that the program headers at `at` follow.
    fn bias_by_file_header(&self, at: TargetAddress) -> Option<u64> {
        let start = self
            .maps
            .file_start(at)
            .or_else(|| self.maps.find(at))?
            .range
            .start;
        let header = file_header(self.memory, start)?;
        let entry = self.auxv.entry()?;
        (header.program_headers.address() == at.get())
            .then(|| entry - TargetAddress::new(header.entry))
    }

    fn module(&self, kind: ModuleKind, headers: Vec<ProgramHeader>, bias: u64) -> Module {
        let header = |kind| headers.iter().find(|header| header.kind == kind);
        let at = |header: &ProgramHeader| TargetAddress::new(header.address) + bias;
        let mapping = header(elf::PT_LOAD).and_then(|load| self.maps.find(at(load)));
        let (build_id, build_id_at) = build_id(self.memory, &headers, bias).unzip();
        Module {
            kind,
            name: OsString::new(),
            path: mapping
                .and_then(|mapping| mapping.path())
                .map(PathBuf::from),
            load_bias: bias,
            build_id,
            build_id_at,
            dynamic: header(elf::PT_DYNAMIC).map(at),
            link_map: None,
            namespace: 0,
            program_headers: headers,
        }
    }

    /// The module whose ELF header is at this address.
    fn at_header(&self, start: TargetAddress, kind: ModuleKind) -> Option<Module> {
        let header = file_header(self.memory, start)?;
        let headers = program_headers(self.memory, header.program_headers).ok()?;
        // The header is the first byte of the file, so it is mapped by the segment of offset 0.
        let first = headers
            .iter()
            .find(|header| header.kind == elf::PT_LOAD && header.offset == 0)?;
        let bias = start - TargetAddress::new(first.address);
        Some(self.module(kind, headers, bias))
    }

    fn vdso(&self) -> Option<Module> {
        let mut module = self.at_header(self.auxv.vdso()?, ModuleKind::Vdso)?;
        module.name = "linux-vdso.so.1".into();
        Some(module)
    }

    /// The modules in the loader's lists, then those that are not in them.
    fn listed(&self, loader: &Loader, started: Module, interpreter: Option<Module>) -> Vec<Module> {
        let vdso = self.vdso();
        let mut known: Vec<Module> = [Some(started), interpreter, vdso]
            .into_iter()
            .flatten()
            .collect();
        let mut modules = Vec::new();
        let mut seen = HashSet::new();
        for entry in loader.link_maps() {
            // A namespace made by dlmopen lists the one loader again: same addresses, same module.
            if entry.dynamic.is_null() || !seen.insert(entry.dynamic) {
                continue;
            }
            let place = known
                .iter()
                .position(|module| module.dynamic == Some(entry.dynamic));
            let module = match place {
                Some(place) => Some(known.swap_remove(place)),
                None => self.listed_only(entry),
            };
            modules.extend(module.map(|module| with_link_map(module, entry, loader)));
        }
        let rest = known
            .into_iter()
            .filter(|module| !is_listed(&modules, module));
        modules.extend(rest.collect::<Vec<_>>());
        modules.sort_by_key(|module| module.kind != ModuleKind::Program);
        modules
    }

    /// A module that only the loader knows. Its header is where its file is mapped from the start,
    /// or at its load bias; a dynamic section where the loader has it proves it.
    fn listed_only(&self, entry: &LinkMap) -> Option<Module> {
        let by_file = self
            .maps
            .file_start(entry.dynamic)
            .map(|mapping| mapping.range.start);
        let by_bias = TargetAddress::new(entry.load_bias);
        let candidates = by_file.into_iter().chain([by_bias]);
        let modules = candidates.filter_map(|at| self.at_header(at, ModuleKind::Library));
        modules
            .into_iter()
            .find(|module| module.dynamic == Some(entry.dynamic))
    }
}

/// Is the module, which has perhaps no dynamic section, among those found through the lists?
fn is_listed(modules: &[Module], module: &Module) -> bool {
    modules
        .iter()
        .any(|listed| listed.load_bias == module.load_bias && listed.dynamic == module.dynamic)
}

fn with_link_map(mut module: Module, entry: &LinkMap, loader: &Loader) -> Module {
    module.name = OsString::from_vec(entry.name.clone());
    module.link_map = Some(entry.address);
    module.namespace = entry.namespace;
    // Under `ld.so ./program` the kernel's program is the loader, and the loader's first entry is
    // the program.
    module.kind = match module.kind {
        ModuleKind::Vdso => ModuleKind::Vdso,
        _ if entry.first && entry.namespace == 0 => ModuleKind::Program,
        _ if loader.is_at(&module) => ModuleKind::Loader,
        _ => ModuleKind::Library,
    };
    module
}
