//! The modules and unwind tables for stack walks, read while the process still runs.

use std::ops::Range;
use std::sync::Arc;

use crate::elf::headers::file_header;
use crate::elf::modules::Modules;
use crate::elf::modules::{Module, ModuleError};
use crate::memory::access::Memory;
use crate::memory::maps::{Mapping, Maps};
use crate::process::handle::Process;
use crate::stack::unwind_budget::UnwindBudget;
use crate::stack::unwind_table::UnwindTable;
use crate::stack::walk_error::WalkError;
use crate::sys::address::TargetAddress;

/// The modules and their unwind tables, prepared before the stop and good for several stops.
///
/// A walk compares the memory map of its stop with the map of this preparation. Code of a module
/// that was loaded later, or where another module was before, makes the walk unreliable, never
/// wrong.
#[derive(Debug)]
pub struct WalkContext {
    maps: Maps,
    modules: Vec<KnownModule>,
    extra: Vec<(Range<TargetAddress>, UnwindTable)>,
    budget: UnwindBudget,
}

/// Code that is in no module, with an `.eh_frame` of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtraUnwindTable {
    /// The code.
    pub code: Range<TargetAddress>,
    /// The section, which ends with a null word or with this range. The addresses in it are those
    /// in memory.
    pub eh_frame: Range<TargetAddress>,
}

#[derive(Debug)]
struct KnownModule {
    module: Arc<Module>,
    /// The entry point, if the module is a program.
    entry: Option<TargetAddress>,
    table: Option<UnwindTable>,
}

/// The module and the unwind table of some code.
pub(crate) struct Place<'c> {
    pub(crate) module: Option<&'c Arc<Module>>,
    pub(crate) entry: Option<TargetAddress>,
    pub(crate) table: &'c UnwindTable,
}

impl WalkContext {
    /// Reads the sorted tables of all modules, which takes a few milliseconds at most, for very
    /// large programs. The unwind information itself is read when it is needed.
    ///
    /// # Errors
    /// The memory map or the modules cannot be read.
    pub fn prepare(process: &Process) -> Result<Self, ModuleError> {
        // The map first: later changes are noticed.
        let maps = Maps::read(process)?;
        let modules = Modules::discover(process)?;
        let memory = Memory::new(process);
        let budget = UnwindBudget::new(process);
        let known = |module: &Module| KnownModule {
            entry: file_header(memory, module.range().start)
                .filter(|header| header.entry != 0)
                .map(|header| module.address(header.entry)),
            table: UnwindTable::of_module(process, module, &budget),
            module: Arc::new(module.clone()),
        };
        Ok(Self {
            modules: modules.iter().map(known).collect(),
            maps,
            extra: Vec::new(),
            budget,
        })
    }

    /// Adds code that is in no module. The code must stay there for as long as this context is
    /// used.
    pub fn add(&mut self, table: ExtraUnwindTable) {
        let ExtraUnwindTable { code, eh_frame } = table;
        let table = UnwindTable::of_section(eh_frame, &self.budget);
        self.extra.push((code, table));
    }

    /// The module at an address when this context was prepared.
    pub(crate) fn module(&self, at: TargetAddress) -> Option<&Arc<Module>> {
        let mut modules = self.modules.iter();
        let known = modules.find(|known| known.module.contains(at))?;
        Some(&known.module)
    }

    /// The module and the unwind table of the code at an address, if the memory map of the stop
    /// shows the same module there.
    pub(crate) fn place(&self, at: TargetAddress, maps: &Maps) -> Result<Place<'_>, WalkError> {
        if let Some((_, table)) = self.extra.iter().find(|(code, _)| code.contains(&at)) {
            return Ok(Place {
                module: None,
                entry: None,
                table,
            });
        }
        let mut modules = self.modules.iter();
        let known = modules.find(|known| known.module.contains(at));
        let known = known.ok_or(WalkError::NoModule { at })?;
        // A module is mapped and unmapped as a whole: if its code is there, its tables are.
        if !self.is_same(at, maps) {
            return Err(WalkError::ModuleChanged { at });
        }
        let table = known.table.as_ref();
        Ok(Place {
            module: Some(&known.module),
            entry: known.entry,
            table: table.ok_or(WalkError::NoUnwindTable { at })?,
        })
    }

    /// Whether the same part of the same file is executable at this address as when this context
    /// was prepared.
    fn is_same(&self, at: TargetAddress, maps: &Maps) -> bool {
        let (Some(then), Some(now)) = (self.maps.find(at), maps.find(at)) else {
            return false;
        };
        // Meanwhile a change of protection may have split the mapping, and the file may have been
        // deleted. Where its first byte would be, and device and inode, stay the same.
        let origin = |mapping: &Mapping| mapping.range.start - mapping.offset;
        let same_name = then.has_file() || then.name == now.name;
        then.file == now.file && same_name && origin(then) == origin(now) && now.executable
    }
}
