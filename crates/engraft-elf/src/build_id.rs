//! The GNU build-id: the note that names a file.

use core::ops::Range;

use object::LittleEndian;
use object::elf::{ELF_NOTE_GNU, NT_GNU_BUILD_ID, NoteHeader64};

use crate::error::{Error, bounded};
use crate::limits::NOTES;
use crate::memory::{ENDIAN, ReadMemory, record, string_is};

/// The size of the fields before a note's name.
const HEADER: u64 = size_of::<NoteHeader64<LittleEndian>>() as u64;

/// Where the first GNU build-id among `notes` is. `alignment` is that of their segment.
///
/// # Errors
/// If a note cannot be read, or if the notes are longer than those of real files.
pub fn find_build_id<M>(
    memory: &M,
    notes: Range<u64>,
    alignment: u64,
) -> Result<Option<Range<u64>>, Error<M::Error>>
where
    M: ReadMemory + ?Sized,
{
    let length = bounded(notes.start, notes.end.saturating_sub(notes.start), NOTES)?;
    // Names and descriptions are padded to 4 bytes, except in segments that say 8
    // (`.note.gnu.property`).
    let mask = if alignment == 8 { 7 } else { 3 };
    let align = |offset: u64| (offset + mask) & !mask;
    let mut offset = 0;
    // The offset is never far beyond the length, and the sizes have 32 bits: nothing overflows.
    while offset + HEADER <= length {
        let note = notes.start.wrapping_add(offset);
        let header: NoteHeader64<LittleEndian> = record(memory, note)?;
        let name_size = u64::from(header.n_namesz.get(ENDIAN));
        let start = offset + align(HEADER + name_size);
        let end = start + u64::from(header.n_descsz.get(ENDIAN));
        if end > length {
            break;
        }
        if header.n_type.get(ENDIAN) == NT_GNU_BUILD_ID
            && name_size == ELF_NOTE_GNU.len() as u64 + 1
            && string_is(memory, note.wrapping_add(HEADER), ELF_NOTE_GNU)?
        {
            let at = |offset| notes.start.wrapping_add(offset);
            return Ok(Some(at(start)..at(end)));
        }
        offset = start + align(end - start);
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    /// Where the build-id is in these notes, which are at 0x1000.
    fn find(notes: &[u8], alignment: u64) -> Result<Option<Range<u64>>, Error<()>> {
        let memory = |address: u64, buffer: &mut [u8]| {
            let offset = address.checked_sub(0x1000).ok_or(())? as usize;
            let end = offset.checked_add(buffer.len()).ok_or(())?;
            buffer.copy_from_slice(notes.get(offset..end).ok_or(())?);
            Ok(())
        };
        find_build_id(&memory, 0x1000..0x1000 + notes.len() as u64, alignment)
    }

    fn note(kind: u32, name: &[u8], text: &[u8], alignment: usize) -> Vec<u8> {
        let mut note = Vec::new();
        note.extend((name.len() as u32).to_le_bytes());
        note.extend((text.len() as u32).to_le_bytes());
        note.extend(kind.to_le_bytes());
        note.extend(name);
        note.resize(note.len().next_multiple_of(alignment), 0);
        note.extend(text);
        note.resize(note.len().next_multiple_of(alignment), 0);
        note
    }

    #[test]
    fn a_build_id_is_found_after_another_note() {
        for alignment in [4, 8] {
            let mut notes = note(1, b"XY\0", b"abc", alignment);
            notes.extend(note(3, b"GNU\0", b"\x12\xab", alignment));
            let found = find(&notes, alignment as u64).unwrap().unwrap();
            let found = (found.start - 0x1000) as usize..(found.end - 0x1000) as usize;
            assert_eq!(notes[found], [0x12, 0xab]);
        }
    }

    #[test]
    fn other_notes_are_not_taken_for_one() {
        let mut notes = note(1, b"GNU\0", b"kind", 4);
        notes.extend(note(3, b"GNX\0", b"name", 4));
        notes.extend(note(3, b"GNU", b"size", 4));
        assert_eq!(find(&notes, 4), Ok(None));
    }

    #[test]
    fn damaged_notes_have_no_build_id() {
        assert_eq!(find(&[0xff; 64], 4), Ok(None));
        assert_eq!(find(&[0xff; 12], 8), Ok(None));
        let whole = note(3, b"GNU\0", b"\x12\xab", 4);
        let mut cut = whole.clone();
        cut.truncate(17);
        assert_eq!(find(&cut, 4), Ok(None));
        assert_eq!(find(&whole, 4), Ok(Some(0x1010..0x1012)));
    }

    #[test]
    #[expect(
        clippy::reversed_empty_ranges,
        reason = "the range of a segment that wraps around"
    )]
    fn endless_notes_are_not_read() {
        let memory = |_: u64, buffer: &mut [u8]| {
            buffer.fill(0);
            Ok::<(), ()>(())
        };
        let found = find_build_id(&memory, 0..u64::MAX, 4);
        assert!(matches!(found, Err(Error::TooLong { limit: NOTES, .. })));
        // As many as fit, each of them empty.
        assert_eq!(find_build_id(&memory, 0..NOTES, 4), Ok(None));
        // A segment that wraps around has no notes.
        assert_eq!(find_build_id(&memory, 8..4, 4), Ok(None));
    }
}
