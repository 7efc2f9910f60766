//! The dynamic symbol table of a loaded file, searched through its hash tables.

use object::LittleEndian;
use object::elf::{
    DT_GNU_HASH, DT_HASH, DT_STRTAB, DT_SYMTAB, DT_VERDEF, DT_VERDEFNUM, DT_VERSYM, SHN_UNDEF,
    STB_LOCAL, STT_FUNC, STT_GNU_IFUNC, STT_NOTYPE, STT_OBJECT, Sym64,
};

use crate::dynamic::Dynamic;
use crate::error::Error;
use crate::hash::HashTable;
use crate::memory::{ENDIAN, ReadMemory, record, string_is};
use crate::segments::Placement;
use crate::versions::{Version, Versions};

/// One symbol of a dynamic symbol table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Its address in memory. That of an indirect function (`STT_GNU_IFUNC`) is its resolver's.
    pub address: u64,
    /// Its size in bytes.
    pub size: u64,
    /// `STT_*`.
    pub kind: u8,
    /// `STB_*`.
    pub binding: u8,
    /// The file defines it; it imports the others.
    pub is_defined: bool,
    /// Offset of its name in the string table.
    name: u32,
}

impl Symbol {
    /// Whether other files can refer to it by its name.
    fn is_exported(&self) -> bool {
        let has_address = matches!(
            self.kind,
            STT_FUNC | STT_OBJECT | STT_NOTYPE | STT_GNU_IFUNC
        );
        self.is_defined && self.binding != STB_LOCAL && has_address
    }
}

/// The dynamic symbol table of one file, and what is needed to search it.
#[derive(Clone, Copy, Debug)]
pub struct Symbols {
    load_bias: u64,
    symbols: u64,
    strings: u64,
    versions: Versions,
    hash_table: Option<HashTable>,
}

impl Symbols {
    /// Bytes of one symbol.
    pub const ENTRY: u64 = size_of::<Sym64<LittleEndian>>() as u64;

    /// The table that a dynamic section leads to; `None` if it leads to none.
    ///
    /// # Errors
    /// If the section cannot be read.
    pub fn find_table<M>(
        memory: &M,
        dynamic: &Dynamic,
        placement: &Placement,
    ) -> Result<Option<Self>, Error<M::Error>>
    where
        M: ReadMemory + ?Sized,
    {
        let pointer = |tag| {
            let value = dynamic.get(memory, tag)?;
            Ok(value.map(|value| placement.dynamic_pointer(value)))
        };
        let (Some(symbols), Some(strings)) = (pointer(DT_SYMTAB)?, pointer(DT_STRTAB)?) else {
            return Ok(None);
        };
        let hash_table = match pointer(DT_GNU_HASH)? {
            Some(table) => Some(HashTable::Gnu(table)),
            None => pointer(DT_HASH)?.map(HashTable::SystemV),
        };
        let definitions = pointer(DT_VERDEF)?.zip(dynamic.get(memory, DT_VERDEFNUM)?);
        Ok(Some(Self {
            load_bias: placement.load_bias,
            symbols,
            strings,
            versions: Versions {
                of_symbols: pointer(DT_VERSYM)?,
                definitions,
                strings,
            },
            hash_table,
        }))
    }

    /// Where the first symbol is.
    pub fn address(&self) -> u64 {
        self.symbols
    }

    /// Where the names are.
    pub fn strings(&self) -> u64 {
        self.strings
    }

    /// The symbol of this number.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn get<M>(&self, memory: &M, index: u32) -> Result<Symbol, Error<M::Error>>
    where
        M: ReadMemory + ?Sized,
    {
        let offset = u64::from(index) * Self::ENTRY;
        let symbol: Sym64<LittleEndian> = record(memory, self.symbols.wrapping_add(offset))?;
        Ok(Symbol {
            address: self.load_bias.wrapping_add(symbol.st_value.get(ENDIAN)),
            size: symbol.st_size.get(ENDIAN),
            kind: symbol.st_type(),
            binding: symbol.st_bind(),
            is_defined: symbol.st_shndx.get(ENDIAN) != SHN_UNDEF,
            name: symbol.st_name.get(ENDIAN),
        })
    }

    /// Whether the symbol has this name.
    ///
    /// # Errors
    /// If its name cannot be read.
    pub fn has_name<M>(
        &self,
        memory: &M,
        symbol: &Symbol,
        name: &[u8],
    ) -> Result<bool, Error<M::Error>>
    where
        M: ReadMemory + ?Sized,
    {
        string_is(memory, self.strings.wrapping_add(symbol.name.into()), name)
    }

    /// The symbol that the file exports with this name and version.
    ///
    /// # Errors
    /// If the tables cannot be read.
    pub fn find<M>(
        &self,
        memory: &M,
        name: &[u8],
        version: Version<'_>,
    ) -> Result<Option<Symbol>, Error<M::Error>>
    where
        M: ReadMemory + ?Sized,
    {
        let Some(table) = self.hash_table else {
            return Ok(None);
        };
        let mut found = None;
        table.find(memory, name, &mut |index| {
            let symbol = self.get(memory, index)?;
            let is_wanted = symbol.is_exported()
                && self.has_name(memory, &symbol, name)?
                && self.versions.is(memory, index, version)?;
            found = is_wanted.then_some(symbol);
            Ok(is_wanted)
        })?;
        Ok(found)
    }

    /// The number of symbols from the first one on among which all are that the file imports; 0 if
    /// it has no hash table.
    ///
    /// # Errors
    /// If the hash table cannot be read.
    pub fn imported<M>(&self, memory: &M) -> Result<u32, Error<M::Error>>
    where
        M: ReadMemory + ?Sized,
    {
        self.hash_table
            .map_or(Ok(0), |table| table.imported(memory))
    }
}
