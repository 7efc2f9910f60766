//! What a stack walk knows of the code of a process, gathered while the process still runs.

use std::ops::Range;
use std::sync::Arc;

use crate::elf::headers::FileHeader;
use crate::elf::modules::{Module, ModuleError};
use crate::memory::maps::{Mapping, Maps};
use crate::process::handle::Process;
use crate::stack::unwind_budget::UnwindBudget;
use crate::stack::unwind_table::UnwindTable;
use crate::stack::walk_error::WalkError;
use crate::sys::address::TargetAddress;

/// The modules and their unwind tables, prepared before the stop and good for several stops.
///
/// A walk compares the map of its stop with the one of this preparation: code of a module that came
/// later, or of one whose place another one has taken, makes it unreliable, never wrong.
#[derive(Debug)]
pub struct WalkContext {
    maps: Maps,
    modules: Vec<KnownModule>,
    extra: Vec<(Range<TargetAddress>, UnwindTable)>,
    budget: UnwindBudget,
}

/// Code outside of all modules, with an `.eh_frame` of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtraUnwindTable {
    /// The code.
    pub code: Range<TargetAddress>,
    /// The section, ended by a null word or by the end of this range. The addresses in it are those in
    /// memory.
    pub eh_frame: Range<TargetAddress>,
}

#[derive(Debug)]
struct KnownModule {
    module: Arc<Module>,
    /// Where it starts to run, if it is a program.
    entry: Option<TargetAddress>,
    table: Option<UnwindTable>,
}

/// Where some code is, and what is known of it.
pub(crate) struct Place<'c> {
    pub(crate) module: Option<&'c Arc<Module>>,
    pub(crate) entry: Option<TargetAddress>,
    pub(crate) table: &'c UnwindTable,
}

impl WalkContext {
    /// Reads the tables of contents of all modules: a few milliseconds at most, for very large
    /// programs. The unwind information itself is read when it is needed.
    pub fn prepare(process: &Process) -> Result<Self, ModuleError> {
        // The map first: whatever changes from here on is noticed.
        let maps = process.maps()?;
        let modules = process.modules()?;
        let memory = process.memory();
        let budget = UnwindBudget::new(process);
        let known = |module: &Module| KnownModule {
            entry: FileHeader::read(memory, module.range().start)
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

    /// Adds code that is in no module. It must stay where it is for as long as this is used.
    pub fn add(&mut self, table: ExtraUnwindTable) {
        let ExtraUnwindTable { code, eh_frame } = table;
        let table = UnwindTable::of_section(eh_frame, &self.budget);
        self.extra.push((code, table));
    }

    /// The module of an address, as it was when this was prepared.
    pub(crate) fn module(&self, at: TargetAddress) -> Option<&Arc<Module>> {
        let mut modules = self.modules.iter();
        let known = modules.find(|known| known.module.contains(at))?;
        Some(&known.module)
    }

    /// What is known of the code at an address, if that is still true under the map of the stop.
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
        // A module is mapped and unmapped as a whole: its code stands for its tables.
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

    /// Is the same part of the same file executable at this address as when this was prepared?
    fn is_same(&self, at: TargetAddress, maps: &Maps) -> bool {
        let (Some(then), Some(now)) = (self.maps.find(at), maps.find(at)) else {
            return false;
        };
        // Neighbours may have been split off by a change of protection meanwhile, and a file may have
        // been deleted: the place of its first byte stays, and so does the file.
        let origin = |mapping: &Mapping| mapping.range.start - mapping.offset;
        let same_name = then.has_file() || then.name == now.name;
        then.file == now.file && same_name && origin(then) == origin(now) && now.executable
    }
}
