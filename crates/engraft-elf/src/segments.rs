//! Program headers, and where their segments are in memory.

use core::ops::Range;

use object::LittleEndian;
use object::elf::{PT_LOAD, ProgramHeader64};

use crate::error::{Error, bounded};
use crate::limits::PROGRAM_HEADERS;
use crate::memory::{ENDIAN, ReadMemory, record};

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

impl ProgramHeader {
    /// Where the segment is in memory.
    pub fn range(&self, load_bias: u64) -> Range<u64> {
        let start = load_bias.wrapping_add(self.address);
        start..start.wrapping_add(self.memory_size)
    }
}

/// A table of program headers in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramHeaders {
    address: u64,
    count: u64,
}

impl ProgramHeaders {
    /// Bytes of one header.
    const ENTRY: u64 = size_of::<ProgramHeader64<LittleEndian>>() as u64;

    /// The table of `count` headers at `address`.
    pub fn new(address: u64, count: u64) -> Self {
        Self { address, count }
    }

    /// Where it begins.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// How many headers it has, as the process says.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Its length in bytes.
    ///
    /// # Errors
    /// If it is longer than the tables of real files.
    pub fn length<E>(&self) -> Result<u64, Error<E>> {
        let length = self.count.saturating_mul(Self::ENTRY);
        bounded(self.address, length, PROGRAM_HEADERS * Self::ENTRY)
    }

    /// The headers, in their order. The last item is an error if one cannot be read, or if there
    /// are more than real files have.
    pub fn iter<'m, M>(&self, memory: &'m M) -> Headers<'m, M>
    where
        M: ReadMemory + ?Sized,
    {
        Headers {
            memory,
            table: *self,
            index: 0,
        }
    }
}

/// Goes through a table of program headers.
pub struct Headers<'m, M: ?Sized> {
    memory: &'m M,
    table: ProgramHeaders,
    index: u64,
}

impl<M: ReadMemory + ?Sized> Headers<'_, M> {
    fn read(&self) -> Result<ProgramHeader, Error<M::Error>> {
        self.table.length()?;
        let offset = self.index.wrapping_mul(ProgramHeaders::ENTRY);
        let address = self.table.address.wrapping_add(offset);
        let header: ProgramHeader64<LittleEndian> = record(self.memory, address)?;
        Ok(ProgramHeader {
            kind: header.p_type.get(ENDIAN),
            flags: header.p_flags.get(ENDIAN),
            offset: header.p_offset.get(ENDIAN),
            address: header.p_vaddr.get(ENDIAN),
            file_size: header.p_filesz.get(ENDIAN),
            memory_size: header.p_memsz.get(ENDIAN),
            alignment: header.p_align.get(ENDIAN),
        })
    }
}

impl<M: ReadMemory + ?Sized> Iterator for Headers<'_, M> {
    type Item = Result<ProgramHeader, Error<M::Error>>;

    // Not inlined: the agent goes through headers in several places, and is to be small.
    #[inline(never)]
    fn next(&mut self) -> Option<Self::Item> {
        if self.index >= self.table.count {
            return None;
        }
        let header = self.read();
        self.index = match header {
            Ok(_) => self.index.saturating_add(1),
            Err(_) => u64::MAX,
        };
        Some(header)
    }
}

/// Where a file is loaded: what turns its addresses into those of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Difference between addresses in the process and link-time addresses.
    pub load_bias: u64,
    /// The addresses from its first to its last loaded byte. There may be holes.
    pub span: Range<u64>,
}

impl Placement {
    /// That of the file with these program headers.
    pub fn of(load_bias: u64, headers: impl IntoIterator<Item = ProgramHeader>) -> Self {
        let mut span: Option<Range<u64>> = None;
        for header in headers {
            let segment = header.range(load_bias);
            if header.kind == PT_LOAD {
                let all = span.take().unwrap_or(segment.clone());
                span = Some(all.start.min(segment.start)..all.end.max(segment.end));
            }
        }
        Self {
            load_bias,
            span: span.unwrap_or_default(),
        }
    }

    /// The address in memory of a link-time address.
    pub fn address(&self, link_time: u64) -> u64 {
        self.load_bias.wrapping_add(link_time)
    }

    /// The address in memory of a pointer in the dynamic section. glibc replaces these pointers by
    /// addresses in memory, except where the section is read-only; musl and the vDSO never do.
    pub fn dynamic_pointer(&self, value: u64) -> u64 {
        match self.span.contains(&value) {
            true => value,
            false => self.address(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use object::elf::PT_NOTE;

    use super::*;

    fn segment(kind: u32, address: u64, memory_size: u64) -> ProgramHeader {
        ProgramHeader {
            kind,
            flags: 0,
            offset: 0,
            address,
            file_size: 0,
            memory_size,
            alignment: 0,
        }
    }

    #[test]
    fn a_table_that_is_too_long_is_not_read() {
        let memory = |_: u64, buffer: &mut [u8]| {
            buffer.fill(1);
            Ok::<(), ()>(())
        };
        let most = ProgramHeaders::new(0, PROGRAM_HEADERS);
        assert_eq!(most.iter(&memory).filter(Result::is_ok).count(), 1024);
        let too_long = ProgramHeaders::new(0, PROGRAM_HEADERS + 1);
        let headers: Vec<_> = too_long.iter(&memory).collect();
        assert!(matches!(
            headers[..],
            [Err(Error::TooLong { limit: 57344, .. })]
        ));
        let absurd = ProgramHeaders::new(u64::MAX, u64::MAX);
        assert_eq!(absurd.iter(&memory).count(), 1);
    }

    #[test]
    fn the_headers_end_with_the_first_that_cannot_be_read() {
        let memory = |address: u64, buffer: &mut [u8]| {
            buffer.fill(0);
            if address < 112 { Ok(()) } else { Err(()) }
        };
        let headers: Vec<_> = ProgramHeaders::new(0, 9).iter(&memory).collect();
        assert!(matches!(
            headers[..],
            [Ok(_), Ok(_), Err(Error::Memory(()))]
        ));
    }

    #[test]
    fn pointers_are_told_from_link_time_addresses() {
        let headers = [
            segment(PT_NOTE, 0, 1 << 40),
            segment(PT_LOAD, 0x1000, 0x500),
            segment(PT_LOAD, 0x4000, 0x800),
        ];
        let placement = Placement::of(0x7000_0000, headers);
        assert_eq!(placement.span, 0x7000_1000..0x7000_4800);
        assert_eq!(placement.dynamic_pointer(0x4010), 0x7000_4010);
        assert_eq!(placement.dynamic_pointer(0x7000_4010), 0x7000_4010);
    }

    #[test]
    #[expect(
        clippy::reversed_empty_ranges,
        reason = "the range of a segment that wraps around"
    )]
    fn addresses_wrap_around() {
        let last = segment(PT_LOAD, u64::MAX, u64::MAX);
        assert_eq!(last.range(2), 1..0);
        let placement = Placement::of(2, [last]);
        assert_eq!(placement.dynamic_pointer(u64::MAX), 1);
    }
}
