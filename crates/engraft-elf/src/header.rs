//! The file header.

use object::LittleEndian;
use object::elf::{ELFCLASS64, ELFDATA2LSB, ELFMAG, FileHeader64};

use crate::error::Error;
use crate::memory::{ENDIAN, ReadMemory, record};
use crate::segments::ProgramHeaders;

/// What the header of a file says about where the rest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHeader {
    /// The link-time address of the program's entry.
    pub entry: u64,
    /// Where the program headers are in memory, if the file is mapped from its header on.
    pub program_headers: ProgramHeaders,
}

impl FileHeader {
    /// The header at `address`; `None` if there is another thing than that of a 64-bit
    /// little-endian file.
    ///
    /// # Errors
    /// If the memory cannot be read.
    pub fn read<M>(memory: &M, address: u64) -> Result<Option<Self>, Error<M::Error>>
    where
        M: ReadMemory + ?Sized,
    {
        let header: FileHeader64<LittleEndian> = record(memory, address)?;
        let ident = &header.e_ident;
        let is_known =
            ident.magic == ELFMAG && ident.class == ELFCLASS64 && ident.data == ELFDATA2LSB;
        Ok(is_known.then(|| Self {
            entry: header.e_entry.get(ENDIAN),
            program_headers: ProgramHeaders::new(
                address.wrapping_add(header.e_phoff.get(ENDIAN)),
                header.e_phnum.get(ENDIAN).into(),
            ),
        }))
    }
}
