//! ELF structures in the target's memory: headers, notes, the dynamic section.
//!
//! Everything is read from memory, never from a file, so a deleted or replaced file, another mount
//! namespace or a chroot make no difference. Every length is bounded: the data may be damaged.

use std::fmt;

use object::elf;

use crate::memory::access::{Memory, MemoryError};
use crate::memory::fields::{half, quarter, word};
use crate::process::limits::{DYNAMIC_ENTRIES, NOTES, PROGRAM_HEADERS};
use crate::sys::address::TargetAddress;

const PROGRAM_HEADER_SIZE: u64 = 56;

/// One ELF program header, in link-time addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramHeader {
    /// `PT_*`.
    pub kind: u32,
    /// `PF_*`.
    pub flags: u32,
    /// Where the segment is in the file.
    pub offset: u64,
    /// Its link-time address; the load bias is added at run time.
    pub address: u64,
    /// Its length in the file.
    pub file_size: u64,
    /// Its length in memory.
    pub memory_size: u64,
    /// Its alignment.
    pub alignment: u64,
}

/// The GNU build-id note of a file: its identity.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BuildId(Vec<u8>);

impl BuildId {
    /// A build-id of these bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// Its bytes (usually 20).
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BuildId({self})")
    }
}

/// The fields of an ELF file header that are needed to find the rest.
pub(crate) struct FileHeader {
    pub(crate) entry: u64,
    pub(crate) program_headers: u64,
    pub(crate) program_header_count: u64,
}

impl FileHeader {
    /// The header at this address, if there is one of a 64-bit file.
    pub(crate) fn read(memory: Memory<'_>, at: TargetAddress) -> Option<Self> {
        let bytes: [u8; 64] = memory.read_array(at).ok()?;
        let is_elf64 = bytes.starts_with(&elf::ELFMAG) && bytes[4] == elf::ELFCLASS64;
        is_elf64.then(|| Self {
            entry: word(&bytes, 24),
            program_headers: word(&bytes, 32),
            program_header_count: quarter(&bytes, 56).into(),
        })
    }
}

/// Reads a table of program headers.
pub(crate) fn program_headers(
    memory: Memory<'_>,
    at: TargetAddress,
    count: u64,
) -> Result<Vec<ProgramHeader>, MemoryError> {
    let length = count.saturating_mul(PROGRAM_HEADER_SIZE);
    let limit = PROGRAM_HEADERS * PROGRAM_HEADER_SIZE;
    let bytes = memory.read_bytes(at, length, limit)?;
    let parse = |bytes: &[u8]| ProgramHeader {
        kind: half(bytes, 0),
        flags: half(bytes, 4),
        offset: word(bytes, 8),
        address: word(bytes, 16),
        file_size: word(bytes, 32),
        memory_size: word(bytes, 40),
        alignment: word(bytes, 48),
    };
    Ok(bytes
        .chunks_exact(PROGRAM_HEADER_SIZE as usize)
        .map(parse)
        .collect())
}

/// The description of the first GNU build-id note among these notes, and its offset.
fn find_build_id(all: &[u8], alignment: usize) -> Option<(BuildId, usize)> {
    let mut notes = all;
    // namesz, descsz, type; then the name and the description, each padded.
    while notes.len() >= 12 {
        let offset = all.len() - notes.len();
        let name_size = half(notes, 0) as usize;
        let description_size = half(notes, 4) as usize;
        let kind = half(notes, 8);
        let name_end = 12usize.checked_add(name_size)?;
        let start = name_end.checked_next_multiple_of(alignment)?;
        let end = start.checked_add(description_size)?;
        let name = notes.get(12..name_end)?;
        let description = notes.get(start..end)?;
        if kind == elf::NT_GNU_BUILD_ID && name == b"GNU\0" {
            return Some((BuildId(description.to_vec()), offset + start));
        }
        notes = notes.get(end.checked_next_multiple_of(alignment)?..)?;
    }
    None
}

/// The build-id of the file that is loaded with these headers at this bias, and where its bytes are.
pub(crate) fn build_id(
    memory: Memory<'_>,
    headers: &[ProgramHeader],
    bias: u64,
) -> Option<(BuildId, TargetAddress)> {
    let notes = headers.iter().filter(|header| header.kind == elf::PT_NOTE);
    notes.into_iter().find_map(|header| {
        let at = TargetAddress::new(header.address) + bias;
        let bytes = memory.read_bytes(at, header.memory_size, NOTES).ok()?;
        // Notes are padded to 4 bytes, except in segments that say 8 (.note.gnu.property).
        let alignment = if header.alignment == 8 { 8 } else { 4 };
        let (id, offset) = find_build_id(&bytes, alignment)?;
        Some((id, at + offset as u64))
    })
}

/// A dynamic section, in memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dynamic {
    entries: Vec<(u64, u64)>,
}

impl Dynamic {
    /// Reads entries up to `DT_NULL`, the end of the segment, or a hole in memory.
    pub(crate) fn read(
        memory: Memory<'_>,
        at: TargetAddress,
        size: u64,
    ) -> Result<Self, MemoryError> {
        let length = size.min(DYNAMIC_ENTRIES * 16);
        let bytes = memory.read_bytes(at, length, length)?;
        let entries = bytes
            .chunks_exact(16)
            .map(|entry| (word(entry, 0), word(entry, 8)));
        Ok(Self {
            entries: entries.take_while(|(tag, _)| *tag != 0).collect(),
        })
    }

    /// The value of the first entry with this tag.
    pub(crate) fn get(&self, tag: u32) -> Option<u64> {
        let found = self
            .entries
            .iter()
            .find(|(entry, _)| *entry == u64::from(tag));
        found.map(|(_, value)| *value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_id_is_found_behind_another_note() {
        let mut notes = Vec::new();
        for (kind, name, text) in [
            (1u32, b"XY\0\0", &b"abc"[..]),
            (3, b"GNU\0", &b"\x12\xab"[..]),
        ] {
            notes.extend(4u32.to_le_bytes());
            notes.extend((text.len() as u32).to_le_bytes());
            notes.extend(kind.to_le_bytes());
            notes.extend(name);
            notes.extend(text);
            notes.resize(notes.len().next_multiple_of(4), 0);
        }
        let (found, offset) = find_build_id(&notes, 4).unwrap();
        assert_eq!(found.to_string(), "12ab");
        assert!(notes[offset..].starts_with(&[0x12, 0xab]));
    }

    #[test]
    fn damaged_notes_have_no_build_id() {
        let mut notes = vec![0xff; 64];
        assert_eq!(find_build_id(&notes, 4), None);
        notes.truncate(12);
        assert_eq!(find_build_id(&notes, 8), None);
    }
}
