//! What is read of the files in this very process is what is in the files.
#![expect(clippy::unwrap_used, reason = "a test fails so")]

mod common;

use std::ops::Range;

use engraft_elf::{
    DebugInterface, Dynamic, FileHeader, Placement, ProgramHeader, ReadMemory, Relocations,
    Symbols, Version, find_build_id,
};
use object::elf::{
    PT_NOTE, R_X86_64_JUMP_SLOT, SHN_UNDEF, STB_LOCAL, STT_FUNC, STT_GNU_IFUNC, STT_NOTYPE,
    STT_OBJECT,
};
use object::read::elf::{ElfFile64, FileHeader as _, Rela as _, SectionHeader as _, Sym as _};
use object::{LittleEndian, Object};

/// A file that is loaded in this process.
struct Loaded {
    start: u64,
    headers: Vec<ProgramHeader>,
    placement: Placement,
    file: Vec<u8>,
}

impl Loaded {
    fn find(name: &str) -> Self {
        let memory = common::own_memory();
        let (range, path) = common::mapped(name).unwrap();
        let header = FileHeader::read(&memory, range.start).unwrap().unwrap();
        let headers: Vec<_> = header
            .program_headers
            .iter(&memory)
            .map(Result::unwrap)
            .collect();
        let placement = Placement::of(range.start, headers.iter().copied());
        assert_eq!(placement.span.start, range.start);
        Self {
            start: range.start,
            headers,
            placement,
            file: std::fs::read(path).unwrap(),
        }
    }

    fn dynamic(&self) -> Dynamic {
        let mut all = self.headers.iter();
        all.find_map(|header| Dynamic::of(header, self.start))
            .unwrap()
    }

    fn symbols(&self) -> Symbols {
        let memory = common::own_memory();
        let symbols = Symbols::find_table(&memory, &self.dynamic(), &self.placement);
        symbols.unwrap().unwrap()
    }

    fn file(&self) -> ElfFile64<'_, LittleEndian> {
        ElfFile64::parse(&*self.file).unwrap()
    }
}

fn own_name() -> String {
    let path = std::env::current_exe().unwrap();
    path.to_str().unwrap().to_owned()
}

fn bytes(memory: &impl ReadMemory<Error = std::io::Error>, range: Range<u64>) -> Vec<u8> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    memory.read(range.start, &mut bytes).unwrap();
    bytes
}

#[test]
fn headers_and_build_ids_are_those_of_the_files() {
    let memory = common::own_memory();
    for name in ["libc.so.6", &own_name()] {
        let loaded = Loaded::find(name);
        let file = loaded.file();
        let in_file = file.elf_program_headers().iter();
        let in_file: Vec<_> = in_file
            .map(|header| {
                (
                    header.p_type.get(LittleEndian),
                    header.p_vaddr.get(LittleEndian),
                )
            })
            .collect();
        let in_memory: Vec<_> = loaded
            .headers
            .iter()
            .map(|it| (it.kind, it.address))
            .collect();
        assert_eq!(in_memory, in_file);
        let mut notes = loaded
            .headers
            .iter()
            .filter(|header| header.kind == PT_NOTE);
        let found = notes.find_map(|header| {
            let range = header.range(loaded.start);
            find_build_id(&memory, range, header.alignment).unwrap()
        });
        let found = found.map(|range| bytes(&memory, range));
        assert_eq!(found.as_deref(), file.build_id().unwrap(), "{name}");
        assert!(name != "libc.so.6" || found.is_some());
    }
}

/// A symbol that a file exports: its name, its version if it has one, whether it is the default
/// one, and its link-time address.
struct Exported {
    name: Vec<u8>,
    version: Option<Vec<u8>>,
    is_default: bool,
    address: u64,
}

fn exported(file: &ElfFile64<'_, LittleEndian>) -> Vec<Exported> {
    let (endian, data) = (LittleEndian, file.data());
    let sections = file.elf_header().sections(endian, data).unwrap();
    let versions = sections.versions(endian, data).unwrap();
    let table = file.elf_dynamic_symbol_table();
    let symbols = table.enumerate().filter(|(_, symbol)| {
        let kinds = [STT_FUNC, STT_OBJECT, STT_NOTYPE, STT_GNU_IFUNC];
        symbol.st_shndx(endian) != SHN_UNDEF
            && symbol.st_bind() != STB_LOCAL
            && kinds.contains(&symbol.st_type())
    });
    let exported = symbols.map(|(index, symbol)| {
        let version = versions.as_ref().map(|it| it.version_index(endian, index));
        let named = version.and_then(|version| versions.as_ref()?.version(version).unwrap());
        Exported {
            name: symbol.name(endian, table.strings()).unwrap().to_vec(),
            version: named.map(|version| version.name().to_vec()),
            is_default: version.is_none_or(|version| !version.is_hidden()),
            address: symbol.st_value(endian),
        }
    });
    exported.collect()
}

#[test]
fn each_exported_symbol_is_found_in_each_of_its_versions() {
    let memory = common::own_memory();
    let loaded = Loaded::find("libc.so.6");
    let symbols = loaded.symbols();
    let all = exported(&loaded.file());
    assert!(all.len() > 1000);
    for symbol in &all {
        let want = Some(loaded.start + symbol.address);
        let find = |version| {
            let found = symbols.find(&memory, &symbol.name, version).unwrap();
            found.map(|found| found.address)
        };
        let name = String::from_utf8_lossy(&symbol.name);
        assert!(find(Version::Any).is_some(), "{name}");
        if let Some(version) = &symbol.version {
            assert_eq!(find(Version::Named(version)), want, "{name}");
        }
        if symbol.is_default {
            assert_eq!(find(Version::Default), want, "{name}");
        }
        assert_eq!(find(Version::Named(b"GLIBC_2.99")), None, "{name}");
    }
    for absent in [&b"no_such_function"[..], b"", &[b'x'; 1000]] {
        let found = symbols.find(&memory, absent, Version::Any).unwrap();
        assert_eq!(found, None);
    }
}

#[test]
fn what_a_file_imports_is_among_its_first_symbols() {
    let memory = common::own_memory();
    let loaded = Loaded::find(&own_name());
    let symbols = loaded.symbols();
    let count = symbols.imported(&memory).unwrap();
    let is_imported = |name: &[u8]| {
        let mut all = (0..count).map(|index| symbols.get(&memory, index).unwrap());
        all.any(|symbol| !symbol.is_defined && symbols.has_name(&memory, &symbol, name).unwrap())
    };
    let file = loaded.file();
    let mut imports = file.imports().unwrap();
    assert!(imports.len() > 10);
    imports.truncate(50);
    for import in imports {
        assert!(is_imported(import.name()));
    }
    assert!(!is_imported(b"no_such_function"));
}

#[test]
fn the_slots_of_the_linkage_table_are_those_in_the_file() {
    let memory = common::own_memory();
    let loaded = Loaded::find("libc.so.6");
    let table =
        Relocations::of_linkage_table(&memory, &loaded.dynamic(), &loaded.placement).unwrap();
    let in_memory: Vec<_> = table
        .unwrap()
        .iter(&memory)
        .map(Result::unwrap)
        .map(|it| (it.address, it.kind, it.symbol))
        .collect();
    let (endian, file) = (LittleEndian, loaded.file());
    let (header, data) = (file.elf_header(), file.data());
    let sections = header.sections(endian, data).unwrap();
    let section = sections.section_by_name(endian, b".rela.plt").unwrap().1;
    let (in_file, _) = section.rela(endian, data).unwrap().unwrap();
    let in_file: Vec<_> = in_file
        .iter()
        .map(|it| {
            (
                it.r_offset(endian),
                it.r_type(endian, false),
                it.r_sym(endian, false),
            )
        })
        .collect();
    assert_eq!(in_memory, in_file);
    assert!(
        in_memory
            .iter()
            .all(|(_, kind, _)| *kind >= R_X86_64_JUMP_SLOT)
    );
}

#[test]
fn the_loader_lists_what_is_mapped() {
    let memory = common::own_memory();
    let program = Loaded::find(&own_name());
    let debug = program.dynamic().get(&memory, object::elf::DT_DEBUG);
    let debug = DebugInterface::read(&memory, debug.unwrap().unwrap()).unwrap();
    assert_eq!(debug.next(&memory).unwrap(), None);
    let maps: Vec<_> = debug.link_maps(&memory).map(Result::unwrap).collect();
    assert_eq!(maps[0].dynamic, program.dynamic().address());
    let mut previous = 0;
    for map in &maps {
        assert_eq!(map.previous, previous);
        previous = map.address;
    }
    let library = Loaded::find("libc.so.6");
    let is_library = |dynamic: u64| dynamic == library.dynamic().address();
    let found = maps.iter().find(|map| is_library(map.dynamic)).unwrap();
    assert_eq!(found.load_bias, library.start);
    let (loader, _) = common::mapped("/ld-linux-x86-64.so.2").unwrap();
    assert_eq!(debug.loader_base, loader.start);
    assert!(loader.contains(&debug.breakpoint));
}
