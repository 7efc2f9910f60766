//! Whatever is in memory, reading it ends without a panic, after a number of reads that is known
//! before.
//!
//! Each test is a fuzz target as well (`CONTRIBUTING.md`).
#![expect(clippy::unwrap_used, reason = "a test fails so")]

mod common;

use std::cell::Cell;
use std::ops::Range;
use std::sync::OnceLock;

use bolero::{TypeGenerator, check};
use engraft_elf::limits::{
    DYNAMIC_ENTRIES, HASH_CHAIN, LINK_MAPS, LOADER_VARIABLES, NAMESPACES, NOTES, PROGRAM_HEADERS,
    RELOCATIONS, VERSION_DEFINITIONS,
};
use engraft_elf::{
    DebugInterface, Dynamic, Error, FileHeader, LinkMap, List, Placement, ProgramHeader,
    ProgramHeaders, ReadMemory, Relocations, Symbols, Version, find_build_id, find_twins,
};

/// Memory that counts how often it is read.
struct Counted<F> {
    read: F,
    reads: Cell<u64>,
}

impl<F: Fn(u64, &mut [u8]) -> Result<(), ()>> ReadMemory for Counted<F> {
    type Error = ();

    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), ()> {
        self.reads.set(self.reads.get() + 1);
        (self.read)(address, buffer)
    }
}

impl<F: Fn(u64, &mut [u8]) -> Result<(), ()>> Counted<F> {
    fn new(read: F) -> Self {
        let reads = Cell::new(0);
        Self { read, reads }
    }

    /// Ends one thing that was read, for which so many reads are enough.
    fn within(&self, most: u64) {
        let reads = self.reads.take();
        assert!(reads <= most, "{reads} reads, and not {most} at most");
    }

    /// Reads all that a file at `address` leads to.
    fn read_file(&self, address: u64) {
        if let Ok(Some(header)) = FileHeader::read(self, address) {
            self.read_headers(address, header.program_headers);
        }
        self.within(1);
    }

    fn read_headers(&self, load_bias: u64, table: ProgramHeaders) {
        let headers: Vec<ProgramHeader> = table.iter(self).filter_map(Result::ok).collect();
        self.within(PROGRAM_HEADERS);
        let placement = Placement::of(load_bias, headers.iter().copied());
        for header in headers.iter().take(8) {
            self.read_notes(header.range(load_bias), header.alignment);
        }
        let dynamic = headers
            .iter()
            .find_map(|header| Dynamic::of(header, load_bias));
        if let Some(dynamic) = dynamic {
            self.read_dynamic(dynamic, &placement);
        }
    }

    fn read_notes(&self, range: Range<u64>, alignment: u64) {
        if let Ok(Some(found)) = find_build_id(self, range.clone(), alignment) {
            assert!(found.start.wrapping_sub(range.start) <= NOTES);
            assert!(found.end.wrapping_sub(found.start) <= NOTES);
        }
        // A header and a name for each note.
        self.within(NOTES / 12 * 2);
    }

    fn read_dynamic(&self, dynamic: Dynamic, placement: &Placement) {
        let table = Relocations::of_linkage_table(self, &dynamic, placement);
        if let Ok(Some(table)) = table {
            assert!(table.iter(self).count() as u64 <= RELOCATIONS);
        }
        self.within(2 * DYNAMIC_ENTRIES + RELOCATIONS);
        let symbols = Symbols::find_table(self, &dynamic, placement);
        self.within(8 * DYNAMIC_ENTRIES);
        if let Ok(Some(symbols)) = symbols {
            self.read_symbols(&symbols);
        }
    }

    fn read_symbols(&self, symbols: &Symbols) {
        let names = [&b"getppid"[..], b"", &[0], &[b'x'; 700]];
        let versions = [
            Version::Any,
            Version::Default,
            Version::Named(b"GLIBC_2.2.5"),
            Version::Named(b""),
        ];
        // The link, the symbol, its name in pieces, its version; two records for each definition.
        let for_one = 8 + 2 * VERSION_DEFINITIONS;
        for name in names {
            for version in versions {
                let _ = symbols.find(self, name, version);
                self.within(2 + u64::from(HASH_CHAIN) * for_one);
            }
        }
        let _ = symbols.imported(self);
        let _ = symbols.get(self, u32::MAX);
        self.within(2);
    }

    /// Reads all that a loader's `r_debug` at `address` leads to.
    fn read_loader(&self, address: u64) {
        let Ok(base) = DebugInterface::read(self, address) else {
            return;
        };
        let mut interface = base;
        for _ in 0..NAMESPACES {
            match interface.next(self) {
                Ok(Some(next)) => match DebugInterface::read(self, next) {
                    Ok(next) => interface = next,
                    Err(_) => break,
                },
                _ => break,
            }
        }
        self.within(1 + 2 * NAMESPACES as u64);
        let maps: Vec<Result<LinkMap, _>> = interface.link_maps(self).collect();
        assert!(maps.len() <= LINK_MAPS + 1);
        self.within(LINK_MAPS as u64);
        for length in [0, 39, 40, 4096, LOADER_VARIABLES + 1, u64::MAX] {
            let place = address..address.wrapping_add(length);
            if let Ok(twins) = find_twins(self, base, place) {
                assert!(twins.count() as u64 <= LOADER_VARIABLES / 8);
            }
            self.within(LOADER_VARIABLES / 8);
        }
    }

    /// Takes what is at `address` for everything that is read anywhere.
    fn read_everything(&self, address: u64) {
        let placement = Placement {
            load_bias: address,
            span: address..address.wrapping_add(1 << 20),
        };
        self.read_file(address);
        for count in [1, 40, PROGRAM_HEADERS, u64::MAX] {
            self.read_headers(address, ProgramHeaders::new(address, count));
        }
        for (length, alignment) in [(16, 4), (4096, 8), (NOTES, 0), (u64::MAX, u64::MAX)] {
            self.read_notes(address..address.wrapping_add(length), alignment);
        }
        self.read_dynamic(Dynamic::new(address, u64::MAX), &placement);
        self.read_loader(address);
    }
}

/// `bytes` at `start`, around the end of the address space if need be, and nothing else.
fn only(bytes: &[u8], start: u64) -> impl Fn(u64, &mut [u8]) -> Result<(), ()> {
    move |address, buffer| {
        let offset = usize::try_from(address.wrapping_sub(start)).map_err(drop)?;
        let end = offset.checked_add(buffer.len()).ok_or(())?;
        buffer.copy_from_slice(bytes.get(offset..end).ok_or(())?);
        Ok(())
    }
}

#[test]
fn random_bytes_in_a_hole() {
    check!()
        .with_iterations(2000)
        .with_type::<(u64, Vec<u8>)>()
        .for_each(|(start, bytes)| {
            Counted::new(only(bytes, *start)).read_everything(*start);
        });
}

/// Memory without an end, in which each table is as long as it says and each list leads back into
/// itself.
#[test]
fn a_pattern_that_fills_the_address_space() {
    check!()
        .with_iterations(50)
        .with_type::<(u64, Vec<u8>)>()
        .for_each(|(start, pattern)| {
            let memory = |address: u64, buffer: &mut [u8]| {
                let length = pattern.len() as u64;
                for (index, byte) in buffer.iter_mut().enumerate() {
                    let place = address.wrapping_add(index as u64).checked_rem(length);
                    *byte = place.map_or(0, |place| pattern[place as usize]);
                }
                Ok(())
            };
            Counted::new(memory).read_everything(*start);
        });
}

/// The C library of this process as it is in memory.
struct Library {
    start: u64,
    bytes: Vec<u8>,
    /// What is worth damaging: the headers, and the beginning of all tables.
    tables: Vec<Range<usize>>,
}

impl Library {
    fn get() -> &'static Self {
        static LIBRARY: OnceLock<Library> = OnceLock::new();
        LIBRARY.get_or_init(Self::read)
    }

    fn read() -> Self {
        let memory = common::own_memory();
        let (range, _) = common::mapped("libc.so.6").unwrap();
        let start = range.start;
        let mut bytes = vec![0; (range.end - range.start) as usize];
        // There may be holes, and pages that cannot be read.
        for (index, page) in bytes.chunks_mut(4096).enumerate() {
            let _ = memory.read(start + index as u64 * 4096, page);
        }
        let header = FileHeader::read(&memory, start).unwrap().unwrap();
        let headers: Vec<_> = header
            .program_headers
            .iter(&memory)
            .map(Result::unwrap)
            .collect();
        let placement = Placement::of(start, headers.iter().copied());
        let mut all = headers.iter();
        let dynamic = all.find_map(|header| Dynamic::of(header, start)).unwrap();
        let mut tables = Vec::from_iter(std::iter::once(0..1024));
        let mut add = |address: u64, length: usize| {
            let offset = (address - start) as usize;
            tables.push(offset..offset + length);
        };
        add(dynamic.address(), dynamic.length() as usize);
        for tag in [4, 5, 6, 7, 23, 0x6fff_fef5, 0x6fff_fff0, 0x6fff_fffc] {
            if let Some(value) = dynamic.get(&memory, tag).unwrap() {
                add(placement.dynamic_pointer(value), 64);
            }
        }
        Self {
            start,
            bytes,
            tables,
        }
    }
}

/// A word that is written over a table.
#[derive(Clone, Debug, TypeGenerator)]
struct Damage {
    table: u8,
    offset: u16,
    word: Word,
}

/// What is written.
#[derive(Clone, Debug, TypeGenerator)]
enum Word {
    Any(u64),
    Short(u16),
    All,
    /// The address of a table, or near it.
    Address {
        table: u8,
        distance: i8,
    },
}

impl Damage {
    fn apply(&self, library: &Library, bytes: &mut [u8]) {
        let table = |index: u8| &library.tables[usize::from(index) % library.tables.len()];
        let word = match self.word {
            Word::Any(word) => word,
            Word::Short(word) => word.into(),
            Word::All => u64::MAX,
            Word::Address {
                table: index,
                distance,
            } => {
                let near = table(index).start as i64 + i64::from(distance);
                library.start.wrapping_add(near as u64)
            }
        };
        let place = table(self.table);
        let offset = place.start + usize::from(self.offset) / 4 * 4 % place.len();
        if let Some(bytes) = bytes.get_mut(offset..offset + 8) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
    }
}

#[test]
fn a_damaged_library() {
    let library = Library::get();
    Counted::new(only(&library.bytes, library.start)).read_file(library.start);
    check!()
        .with_iterations(300)
        .with_type::<(Vec<Damage>, Option<u32>)>()
        .for_each(|(damages, length)| {
            let mut bytes = library.bytes.clone();
            for damage in damages {
                damage.apply(library, &mut bytes);
            }
            let length = length.map_or(bytes.len(), |length| length as usize % bytes.len());
            let memory = Counted::new(only(&bytes[..length], library.start));
            memory.read_file(library.start);
        });
}

#[test]
fn a_circle_of_link_maps_is_an_error() {
    // A link map that is followed by itself, after 40 bytes of `r_debug` that lead to it.
    let words = [1_u64, 0x28, 0, 0, 0, 0, 0, 0, 0x28, 0];
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let memory = Counted::new(only(&bytes, 0));
    let debug = DebugInterface::read(&memory, 0).unwrap();
    let maps: Vec<_> = debug.link_maps(&memory).collect();
    let endless = Error::Endless {
        list: List::LinkMaps,
        limit: LINK_MAPS,
    };
    assert_eq!(maps.len(), LINK_MAPS + 1);
    assert_eq!(maps.last(), Some(&Err(endless)));
}

#[test]
fn interfaces_that_are_not_chained_are_found_among_other_data() {
    // Three words of other data; the base interface; two more words; its twin; the beginning of a
    // third one.
    let words = [
        9_u64, 9, 9, 1, 0, 70, 0, 80, 70, 80, 1, 5, 70, 1, 80, 1, 0, 70, 0,
    ];
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let memory = Counted::new(only(&bytes, 0));
    let base = DebugInterface::read(&memory, 3 * 8).unwrap();
    let twins = find_twins(&memory, base, 0..bytes.len() as u64).unwrap();
    let twins: Vec<_> = twins.map(|twin| twin.unwrap().address).collect();
    assert_eq!(twins, [10 * 8]);
}
