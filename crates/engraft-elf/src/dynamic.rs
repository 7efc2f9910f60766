//! The dynamic section.

use object::LittleEndian;
use object::elf::{DT_NULL, Dyn64, PT_DYNAMIC};

use crate::error::Error;
use crate::limits::DYNAMIC_ENTRIES;
use crate::memory::{ENDIAN, ReadMemory, record};
use crate::segments::ProgramHeader;

/// Where a dynamic section is in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dynamic {
    address: u64,
    entries: u64,
}

impl Dynamic {
    /// Bytes of one entry.
    const ENTRY: u64 = size_of::<Dyn64<LittleEndian>>() as u64;

    /// The section of `size` bytes at `address`. What follows the entries that real files have is
    /// not read.
    pub fn new(address: u64, size: u64) -> Self {
        Self {
            address,
            entries: (size / Self::ENTRY).min(DYNAMIC_ENTRIES),
        }
    }

    /// The section that this header leads to, if it is that of a dynamic section.
    pub fn of(header: &ProgramHeader, load_bias: u64) -> Option<Self> {
        (header.kind == PT_DYNAMIC)
            .then(|| Self::new(header.range(load_bias).start, header.memory_size))
    }

    /// Where it begins.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// How many bytes of it are read at most.
    pub fn length(&self) -> u64 {
        self.entries * Self::ENTRY
    }

    /// The value of the first entry with this tag (`DT_*`).
    ///
    /// # Errors
    /// If the entries up to that one cannot be read.
    // Not inlined: the agent asks for many tags, and is to be small.
    #[inline(never)]
    pub fn get<M>(&self, memory: &M, tag: u32) -> Result<Option<u64>, Error<M::Error>>
    where
        M: ReadMemory + ?Sized,
    {
        for index in 0..self.entries {
            let address = self.address.wrapping_add(index * Self::ENTRY);
            let entry: Dyn64<LittleEndian> = record(memory, address)?;
            match entry.d_tag.get(ENDIAN) {
                found if found == u64::from(tag) => return Ok(Some(entry.d_val.get(ENDIAN))),
                end if end == u64::from(DT_NULL) => break,
                _ => {}
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use object::elf::{DT_HASH, DT_STRTAB, DT_SYMTAB};

    use super::*;

    #[test]
    fn entries_end_with_null_or_with_the_section() {
        let words = [5_u64, 50, 6, 60, 0, 0, 4, 40];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let memory = |address: u64, buffer: &mut [u8]| {
            let end = address as usize + buffer.len();
            buffer.copy_from_slice(bytes.get(address as usize..end).ok_or(())?);
            Ok::<(), ()>(())
        };
        let section = Dynamic::new(0, 64);
        assert_eq!(section.get(&memory, DT_STRTAB), Ok(Some(50)));
        assert_eq!(section.get(&memory, DT_SYMTAB), Ok(Some(60)));
        assert_eq!(section.get(&memory, DT_HASH), Ok(None));
        let short = Dynamic::new(0, 31);
        assert_eq!(short.get(&memory, DT_SYMTAB), Ok(None));
        let in_a_hole = Dynamic::new(64, 16);
        assert_eq!(in_a_hole.get(&memory, DT_SYMTAB), Err(Error::Memory(())));
    }

    #[test]
    fn a_section_without_an_end_is_not_followed_for_ever() {
        let reads = core::cell::Cell::new(0);
        let memory = |_: u64, buffer: &mut [u8]| {
            reads.set(reads.get() + 1);
            buffer.fill(1);
            Ok::<(), ()>(())
        };
        let section = Dynamic::new(u64::MAX - 100, u64::MAX);
        assert_eq!(section.get(&memory, DT_STRTAB), Ok(None));
        assert_eq!(reads.get(), DYNAMIC_ENTRIES);
    }
}
