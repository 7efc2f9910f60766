//! The relocations of a procedure linkage table: which slot a call of an imported function goes
//! through.

use object::LittleEndian;
use object::elf::{DT_JMPREL, DT_PLTRELSZ, Rela64};

use crate::dynamic::Dynamic;
use crate::error::{Error, bounded};
use crate::limits::RELOCATIONS;
use crate::memory::{ENDIAN, ReadMemory, record};
use crate::segments::Placement;

/// One relocation with an addend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relocation {
    /// The link-time address that it changes.
    pub address: u64,
    /// `R_X86_64_*`.
    pub kind: u32,
    /// The number of the symbol that it refers to.
    pub symbol: u32,
}

/// A table of relocations in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relocations {
    address: u64,
    length: u64,
}

impl Relocations {
    /// Bytes of one relocation.
    const ENTRY: u64 = size_of::<Rela64<LittleEndian>>() as u64;

    /// Those of the procedure linkage table; `None` if the file has none.
    ///
    /// # Errors
    /// If the dynamic section cannot be read, or if the table is longer than those of real files.
    pub fn of_linkage_table<M>(
        memory: &M,
        dynamic: &Dynamic,
        placement: &Placement,
    ) -> Result<Option<Self>, Error<M::Error>>
    where
        M: ReadMemory + ?Sized,
    {
        let Some(address) = dynamic.get(memory, DT_JMPREL)? else {
            return Ok(None);
        };
        let address = placement.dynamic_pointer(address);
        let length = dynamic.get(memory, DT_PLTRELSZ)?.unwrap_or(0);
        let length = bounded(address, length, RELOCATIONS * Self::ENTRY)?;
        Ok(Some(Self { address, length }))
    }

    /// Where the table begins.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The relocations, in their order.
    pub fn iter<'m, M>(
        &self,
        memory: &'m M,
    ) -> impl Iterator<Item = Result<Relocation, Error<M::Error>>> + use<'m, M>
    where
        M: ReadMemory + ?Sized,
    {
        let table = *self;
        (0..table.length / Self::ENTRY).map(move |index| {
            let address = table.address.wrapping_add(index * Self::ENTRY);
            let relocation: Rela64<LittleEndian> = record(memory, address)?;
            Ok(Relocation {
                address: relocation.r_offset.get(ENDIAN),
                kind: relocation.r_type(ENDIAN, false),
                symbol: relocation.r_sym(ENDIAN, false),
            })
        })
    }
}
