//! Which of some names a module defines or imports.

use std::collections::BTreeSet;

use crate::elf::file_sections::functions_named;
use crate::elf::modules::{Module, ModuleKind};
use crate::elf::symbols::DynamicSymbols;
use crate::memory::access::Memory;
use crate::memory::access::MemoryError;
use crate::process::handle::Process;

impl Module {
    /// The names that this module imports or defines. If it is the program and has its symbols,
    /// also names that it does not export.
    ///
    /// # Errors
    /// The symbol table cannot be read.
    pub fn functions_named<'n>(
        &self,
        process: &Process,
        names: &[&'n str],
    ) -> Result<BTreeSet<&'n str>, MemoryError> {
        let mut found = BTreeSet::new();
        let memory = Memory::new(process);
        if let Some(dynamic) = self.read_dynamic(memory)? {
            if let Some(symbols) = DynamicSymbols::new(memory, self, &dynamic)? {
                found.extend(symbols.imported(names)?);
            }
            for name in names {
                if self.symbol(memory, name.as_bytes())?.is_some() {
                    found.insert(*name);
                }
            }
        }
        if self.kind == ModuleKind::Program {
            found.extend(functions_named(process, self, names));
        }
        Ok(found)
    }
}
