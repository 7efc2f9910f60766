//! Symbol versions: which definition of a name is meant, where a file has several.

use object::LittleEndian;
use object::elf::{VERSYM_HIDDEN, VERSYM_VERSION, Verdaux, Verdef};

use crate::error::Error;
use crate::limits::VERSION_DEFINITIONS;
use crate::memory::{ENDIAN, ReadMemory, half, record, string_is};

/// Which version of a symbol is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version<'v> {
    /// Whichever comes first.
    Any,
    /// The one that a reference without a version gets.
    Default,
    /// The one with this name. A file that defines no versions is taken as it is, as the loader
    /// does.
    Named(&'v [u8]),
}

/// Where a file says which versions its symbols have. Without a table, each symbol has every
/// version.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Versions {
    /// `DT_VERSYM`: one half-word for each symbol.
    pub(crate) of_symbols: Option<u64>,
    /// `DT_VERDEF` and `DT_VERDEFNUM`.
    pub(crate) definitions: Option<(u64, u64)>,
    /// `DT_STRTAB`.
    pub(crate) strings: u64,
}

impl Versions {
    /// Whether the symbol of this number has the wanted version.
    pub(crate) fn is<M>(
        &self,
        memory: &M,
        symbol: u32,
        wanted: Version<'_>,
    ) -> Result<bool, Error<M::Error>>
    where
        M: ReadMemory + ?Sized,
    {
        let Some(table) = self.of_symbols else {
            return Ok(true);
        };
        if wanted == Version::Any {
            return Ok(true);
        }
        let version = half(memory, table.wrapping_add(u64::from(symbol) * 2))?;
        match wanted {
            Version::Any => Ok(true),
            Version::Default => Ok(version & VERSYM_HIDDEN == 0),
            Version::Named(name) => self.is_named(memory, version & VERSYM_VERSION, name),
        }
    }

    /// Whether the version of this number has this name.
    fn is_named<M>(&self, memory: &M, number: u16, name: &[u8]) -> Result<bool, Error<M::Error>>
    where
        M: ReadMemory + ?Sized,
    {
        let Some((mut address, count)) = self.definitions else {
            return Ok(true);
        };
        // Each definition says where the next one is, so a damaged one may lead back to itself.
        for _ in 0..count.min(VERSION_DEFINITIONS) {
            let definition: Verdef<LittleEndian> = record(memory, address)?;
            if definition.vd_ndx.get(ENDIAN) == number {
                let first = address.wrapping_add(definition.vd_aux.get(ENDIAN).into());
                let first: Verdaux<LittleEndian> = record(memory, first)?;
                let text = self.strings.wrapping_add(first.vda_name.get(ENDIAN).into());
                return string_is(memory, text, name);
            }
            address = address.wrapping_add(definition.vd_next.get(ENDIAN).into());
        }
        Ok(false)
    }
}
