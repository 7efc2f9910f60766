//! Which of some names a module defines or imports.

use std::collections::BTreeSet;

use object::elf;

use crate::elf::file_sections::functions_named;
use crate::elf::headers::Dynamic;
use crate::elf::modules::{Module, ModuleKind};
use crate::memory::access::Memory;
use crate::memory::access::MemoryError;
use crate::memory::fields::{half, quarter};
use crate::process::handle::Process;

const SYMBOL_SIZE: u64 = 24;
/// What a module says of itself is not believed beyond this.
const MOST_SYMBOLS: u64 = 1 << 18;
const LARGEST_STRINGS: u64 = 64 << 20;

impl Module {
    /// Those of some names that this module imports, or defines. Also those that it does not export, if it is the
    /// program and has its symbols.
    pub fn functions_named<'n>(
        &self,
        process: &Process,
        names: &[&'n str],
    ) -> Result<BTreeSet<&'n str>, MemoryError> {
        let mut found = BTreeSet::new();
        if let Some(dynamic) = self.read_dynamic(Memory::new(process))? {
            found.extend(self.imported(process, &dynamic, names)?);
            for name in names {
                if self
                    .symbol(Memory::new(process), name.as_bytes())?
                    .is_some()
                {
                    found.insert(*name);
                }
            }
        }
        if self.kind == ModuleKind::Program {
            found.extend(functions_named(process, self, names));
        }
        Ok(found)
    }

    fn imported<'n>(
        &self,
        process: &Process,
        dynamic: &Dynamic,
        names: &[&'n str],
    ) -> Result<BTreeSet<&'n str>, MemoryError> {
        let memory = Memory::new(process);
        let pointer = |tag| dynamic.get(tag).map(|value| self.dynamic_pointer(value));
        let (Some(symbols), Some(strings)) = (pointer(elf::DT_SYMTAB), pointer(elf::DT_STRTAB))
        else {
            return Ok(BTreeSet::new());
        };
        // Imported symbols come first; the hash table of GNU says where others begin, that of the gABI how many
        // there are.
        let count = match (pointer(elf::DT_GNU_HASH), pointer(elf::DT_HASH)) {
            (Some(table), _) | (None, Some(table)) => {
                u32::from_le_bytes(memory.read_array(table + 4)?)
            }
            (None, None) => 0,
        };
        let length = u64::from(count) * SYMBOL_SIZE;
        let symbols = memory.read_bytes(symbols, length, MOST_SYMBOLS * SYMBOL_SIZE)?;
        let length = dynamic.get(elf::DT_STRSZ).unwrap_or(0);
        let strings = memory.read_bytes(strings, length, LARGEST_STRINGS)?;
        let mut found = BTreeSet::new();
        for symbol in symbols.chunks_exact(SYMBOL_SIZE as usize) {
            if quarter(symbol, 6) != elf::SHN_UNDEF {
                continue;
            }
            let text = strings.get(half(symbol, 0) as usize..).unwrap_or_default();
            let is = |name: &&&str| {
                let rest = text.strip_prefix(name.as_bytes());
                rest.is_some_and(|rest| rest.first() == Some(&0))
            };
            found.extend(names.iter().find(is));
        }
        Ok(found)
    }
}
