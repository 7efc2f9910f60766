//! ELF structures in the target's memory: headers, notes, the dynamic section.
//!
//! Everything is read from memory, never from a file, so a deleted or replaced file, another mount
//! namespace or a chroot make no difference. Every length is bounded: the data may be damaged.

use engraft_elf::{
    Error, FileHeader, ProgramHeader, ProgramHeaders, ReadMemory, Window, find_build_id, limits,
};
use engraft_machine::BuildId;
use object::elf;

use crate::elf::reading::{in_one_piece, memory_error};
use crate::memory::access::{Memory, MemoryError};
use crate::sys::address::TargetAddress;

/// The file header at this address, if there is one.
pub(crate) fn file_header(memory: Memory<'_>, at: TargetAddress) -> Option<FileHeader> {
    FileHeader::read(&memory, at.get()).ok().flatten()
}

/// Reads a table of program headers.
pub(crate) fn program_headers(
    memory: Memory<'_>,
    table: ProgramHeaders,
) -> Result<Vec<ProgramHeader>, MemoryError> {
    let length = table
        .length()
        .map_err(|error| memory_error(memory, error))?;
    in_one_piece(memory, table.address(), length, |window| {
        table.iter(window).collect()
    })
}

/// The build-id of the file that is loaded with these headers at this bias, and where its bytes
/// are.
pub(crate) fn build_id(
    memory: Memory<'_>,
    headers: &[ProgramHeader],
    bias: u64,
) -> Option<(BuildId, TargetAddress)> {
    let mut notes = headers.iter().filter(|header| header.kind == elf::PT_NOTE);
    notes.find_map(|header| {
        let notes = header.range(bias);
        let length = header.memory_size.min(limits::NOTES);
        let found = in_one_piece(memory, notes.start, length, |window| {
            let Some(place) = find_build_id(window, notes.clone(), header.alignment)? else {
                return Ok(None);
            };
            let mut bytes = vec![0; (place.end - place.start) as usize];
            window
                .read(place.start, &mut bytes)
                .map_err(Error::Memory)?;
            Ok(BuildId::new(&bytes).map(|id| (id, place.start.into())))
        });
        found.ok().flatten()
    })
}

/// A dynamic section, as it was when it was read.
#[derive(Clone, Debug)]
pub(crate) struct Dynamic {
    section: engraft_elf::Dynamic,
    bytes: Vec<u8>,
}

impl Dynamic {
    /// Reads the section of `size` bytes, or as much of it as real files have.
    pub(crate) fn read(
        memory: Memory<'_>,
        at: TargetAddress,
        size: u64,
    ) -> Result<Self, MemoryError> {
        let section = engraft_elf::Dynamic::new(at.get(), size);
        let length = section.length();
        let bytes = memory.read_bytes(at, length, length)?;
        Ok(Self { section, bytes })
    }

    /// The value of the first entry with this tag.
    pub(crate) fn get(&self, tag: u32) -> Option<u64> {
        let nothing = |_: u64, _: &mut [u8]| Err(());
        let window = Window::new(self.section.address(), &self.bytes, &nothing);
        self.section.get(&window, tag).ok().flatten()
    }

    /// A table that this section leads to. `find` is given the memory that the section is in.
    pub(crate) fn find_table<'p, T>(
        &self,
        memory: Memory<'p>,
        find: impl FnOnce(
            &Window<'_, Memory<'p>>,
            &engraft_elf::Dynamic,
        ) -> Result<T, Error<MemoryError>>,
    ) -> Result<T, MemoryError> {
        let window = Window::new(self.section.address(), &self.bytes, &memory);
        find(&window, &self.section).map_err(|error| memory_error(memory, error))
    }
}
