//! Dynamic symbols of a loaded module, looked up in its memory.

use std::ops::Range;

use engraft_elf::{Relocations, Symbols, Version, Window};
use object::elf;

use crate::elf::headers::Dynamic;
use crate::elf::modules::Module;
use crate::elf::reading::{in_one_piece, memory_error};
use crate::memory::access::{Memory, MemoryError};
use crate::sys::address::TargetAddress;

/// Symbols of one module among which its imports are looked for; the largest programs import some
/// ten thousand.
const MOST_SYMBOLS: u64 = 1 << 18;
/// Bytes of the names of one module's symbols; the largest have some ten million.
const LARGEST_STRINGS: u64 = 64 << 20;

/// The dynamic symbol table of one module.
pub(crate) struct DynamicSymbols<'p, 'm> {
    memory: Memory<'p>,
    module: &'m Module,
    dynamic: &'m Dynamic,
    table: Symbols,
}

impl<'p, 'm> DynamicSymbols<'p, 'm> {
    /// The table of a module; `None` if it has none.
    pub(crate) fn new(
        memory: Memory<'p>,
        module: &'m Module,
        dynamic: &'m Dynamic,
    ) -> Result<Option<Self>, MemoryError> {
        let table = dynamic.find_table(memory, |window, section| {
            Symbols::find_table(window, section, &module.placement())
        })?;
        Ok(table.map(|table| Self {
            memory,
            module,
            dynamic,
            table,
        }))
    }

    /// The place of a symbol that this module defines.
    pub(crate) fn find(&self, name: &[u8]) -> Result<Option<Range<TargetAddress>>, MemoryError> {
        let found = self.table.find(&self.memory, name, Version::Any);
        let found = found.map_err(|error| memory_error(self.memory, error))?;
        Ok(found.map(|symbol| {
            let start = TargetAddress::new(symbol.address);
            start..start + symbol.size
        }))
    }

    /// What the GOT slot of a PLT entry for this symbol holds now.
    pub(crate) fn jump_slot(&self, name: &[u8]) -> Result<Option<TargetAddress>, MemoryError> {
        let table = self.dynamic.find_table(self.memory, |window, section| {
            Relocations::of_linkage_table(window, section, &self.module.placement())
        })?;
        let Some(relocations) = table else {
            return Ok(None);
        };
        let (start, length) = (relocations.address(), relocations.length());
        let slot = in_one_piece(self.memory, start, length, |window| {
            for relocation in relocations.iter(window) {
                let relocation = relocation?;
                if relocation.kind == elf::R_X86_64_JUMP_SLOT {
                    let symbol = self.table.get(&self.memory, relocation.symbol)?;
                    if self.table.has_name(&self.memory, &symbol, name)? {
                        return Ok(Some(self.module.address(relocation.address)));
                    }
                }
            }
            Ok(None)
        })?;
        let Some(slot) = slot else {
            return Ok(None);
        };
        let target = TargetAddress::new(self.memory.read_u64(slot)?);
        Ok((!target.is_null()).then_some(target))
    }

    /// Those of some names that the module imports.
    pub(crate) fn imported<'n>(&self, names: &[&'n str]) -> Result<Vec<&'n str>, MemoryError> {
        let count = self.table.imported(&self.memory);
        let count = count.map_err(|error| memory_error(self.memory, error))?;
        let length = u64::from(count) * Symbols::ENTRY;
        let start = TargetAddress::new(self.table.address());
        let symbols = self
            .memory
            .read_bytes(start, length, MOST_SYMBOLS * Symbols::ENTRY)?;
        let symbols = Window::new(start.get(), &symbols, &self.memory);
        let length = self.dynamic.get(elf::DT_STRSZ).unwrap_or(0);
        let start = TargetAddress::new(self.table.strings());
        let strings = self.memory.read_bytes(start, length, LARGEST_STRINGS)?;
        // A name that is not in the table is nobody's.
        let nothing = |_: u64, _: &mut [u8]| Err(());
        let strings = Window::new(start.get(), &strings, &nothing);
        let mut found = Vec::new();
        for index in 0..count {
            let symbol = self.table.get(&symbols, index);
            let symbol = symbol.map_err(|error| memory_error(self.memory, error))?;
            if !symbol.is_defined {
                let is = |name: &&&str| {
                    self.table.has_name(&strings, &symbol, name.as_bytes()) == Ok(true)
                };
                found.extend(names.iter().find(is));
            }
        }
        Ok(found)
    }
}
