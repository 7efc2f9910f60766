//! A loaded ELF file as it is in memory: program headers, build-id, dynamic section, symbols.
//!
//! Facts: System V gABI (program header, dynamic section, hash table), the GNU hash table and symbol
//! versions as in the LSB core specification.
//!
//! All reading goes through the kernel: a module may be unmapped at any moment by a thread in dlclose, and
//! then there is no answer instead of a crash.

#![expect(unsafe_code, reason = "calls the resolvers of indirect functions")]

use core::ops::Range;

use engraft_core::BuildId;
use object::elf::{
    DF_TEXTREL, DT_FLAGS, DT_GNU_HASH, DT_HASH, DT_NULL, DT_STRTAB, DT_SYMTAB, DT_TEXTREL,
    DT_VERDEF, DT_VERDEFNUM, DT_VERSYM, ELFMAG, NT_GNU_BUILD_ID, PF_X, PT_DYNAMIC, PT_LOAD,
    PT_NOTE, SHN_UNDEF, STB_LOCAL, STT_FUNC, STT_GNU_IFUNC, STT_NOTYPE, STT_OBJECT, VERSYM_VERSION,
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::system::memory::{Window, equals, probe};

const PAGE: u64 = 4096;

/// `Elf64_Phdr`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ProgramHeader {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    physical_address: u64,
    file_size: u64,
    memory_size: u64,
    alignment: u64,
}

/// `Elf64_Sym`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Symbol {
    name: u32,
    info: u8,
    other: u8,
    section: u16,
    value: u64,
    size: u64,
}

/// One loaded ELF file.
#[derive(Clone, Copy)]
pub(crate) struct LoadedElf {
    /// Difference between addresses in the process and link-time addresses.
    pub load_bias: u64,
    program_headers: u64,
    program_header_count: u64,
}

impl LoadedElf {
    /// The file whose program headers are at an address that is known (`AT_PHDR`).
    pub(crate) fn with_program_headers(load_bias: u64, address: u64, count: u64) -> Self {
        Self {
            load_bias,
            program_headers: address,
            program_header_count: count,
        }
    }

    /// The file that the loader mapped with `load_bias`; `None` if no ELF header is found there. Only in the loader's
    /// hook.
    ///
    /// The ELF header is part of the first segment, whose link-time address is 0 in every shared
    /// object that a link editor makes by default; a prelinked one has another, and lies below its
    /// dynamic section.
    pub(crate) fn find(load_bias: u64, dynamic: u64) -> Option<Found> {
        const FARTHEST: u64 = 4096;
        let start = Window::in_place(load_bias, Window::LENGTH);
        if let Some(elf) = Self::with_header_in(load_bias, &start) {
            return Some(elf.examine_in(&start));
        }
        let elf = (0..FARTHEST)
            .map_while(|page| (dynamic & !(PAGE - 1)).checked_sub(page * PAGE))
            .find_map(|start| {
                Self::with_header_in(load_bias, &Window::in_place(start, Window::LENGTH))
            })
            .filter(|elf| elf.dynamic_section() == Some(dynamic))?;
        Some(elf.examine())
    }

    /// The file whose ELF header is where the window begins.
    fn with_header_in(load_bias: u64, window: &Window) -> Option<Self> {
        const PHOFF: u64 = 32;
        const PHNUM: u64 = 56;
        let start = window.start;
        (window.get::<[u8; 4]>(start)? == ELFMAG).then_some(())?;
        let program_headers = start.checked_add(window.get::<u64>(start + PHOFF)?)?;
        let count = u64::from(window.get::<u16>(start + PHNUM)?);
        Some(Self::with_program_headers(
            load_bias,
            program_headers,
            count,
        ))
    }

    /// What has to be known of every module.
    pub(crate) fn examine(self) -> Found {
        self.examine_in(&self.headers())
    }

    #[inline(never)]
    fn examine_in(self, window: &Window) -> Found {
        let mut span = None;
        let mut build_id = None;
        self.each_header(window, &mut |header| {
            let range = self.range(header);
            if header.kind == PT_LOAD {
                let all = span.take().unwrap_or(range.clone());
                span = Some(all.start.min(range.start)..all.end.max(range.end));
            } else if header.kind == PT_NOTE && build_id.is_none() {
                build_id = build_id_note(window, range, header.alignment);
            }
            false
        });
        Found {
            elf: self,
            span: span.unwrap_or(0..0),
            build_id,
        }
    }

    /// A window on the program headers: each reading is a system call, while all threads may be standing
    /// still.
    fn headers(&self) -> Window {
        let size = self.program_header_count * size_of::<ProgramHeader>() as u64;
        Window::at(self.program_headers, size)
    }

    /// Goes along the program headers until `visit` says that it has found what it looks for.
    // The visitors share one copy of this: the agent is to be small.
    #[inline(never)]
    fn each_header(&self, window: &Window, visit: &mut dyn FnMut(&ProgramHeader) -> bool) {
        for index in 0..self.program_header_count {
            let place = self.program_headers + index * size_of::<ProgramHeader>() as u64;
            match window.get(place) {
                Some(header) if !visit(&header) => {}
                _ => return,
            }
        }
    }

    fn range(&self, header: &ProgramHeader) -> Range<u64> {
        let start = self.load_bias.wrapping_add(header.address);
        start..start.wrapping_add(header.memory_size)
    }

    /// The addresses from the first to the last loaded byte.
    fn span(&self) -> Range<u64> {
        self.examine().span
    }

    /// Whether all of `range` lies in one executable segment.
    pub(crate) fn is_code(&self, range: &Range<u64>) -> bool {
        let mut found = false;
        self.each_header(&self.headers(), &mut |header| {
            let segment = self.range(header);
            found = header.kind == PT_LOAD
                && header.flags & PF_X != 0
                && segment.start <= range.start
                && range.end <= segment.end;
            found
        });
        found
    }

    fn dynamic_section(&self) -> Option<u64> {
        let mut found = None;
        self.each_header(&self.headers(), &mut |header| {
            if header.kind == PT_DYNAMIC {
                found = Some(self.range(header).start);
            }
            found.is_some()
        });
        found
    }

    /// Whether relocation changes the file's code (`DT_TEXTREL`): a patch that is applied before
    /// that would be overwritten.
    pub(crate) fn has_text_relocations(&self) -> bool {
        self.dynamic_value(DT_TEXTREL).is_some()
            || self
                .dynamic_value(DT_FLAGS)
                .is_some_and(|flags| flags & u64::from(DF_TEXTREL) != 0)
    }

    fn dynamic_value(&self, wanted: u32) -> Option<u64> {
        let mut entry = self.dynamic_section()?;
        loop {
            let [tag, value] = probe::<[u64; 2]>(entry)?;
            if tag == u64::from(DT_NULL) {
                return None;
            }
            if tag == u64::from(wanted) {
                return Some(value);
            }
            entry += 16;
        }
    }

    /// A dynamic entry that is an address. glibc rewrites these in place to process addresses, except
    /// where the section is read-only; musl and the vDSO never do.
    fn dynamic_address(&self, wanted: u32) -> Option<u64> {
        let value = self.dynamic_value(wanted)?;
        let span = self.span();
        Some(if span.contains(&value) {
            value
        } else {
            self.load_bias.wrapping_add(value)
        })
    }

    /// The definition of `name` (with symbol version `version`, unless empty) that this file exports.
    ///
    /// The file must be relocated: an IFUNC's resolver is called.
    pub(crate) fn exported_symbol(&self, name: &[u8], version: &[u8]) -> Option<u64> {
        let (kind, address) = self.definition(name, version)?;
        if kind != STT_GNU_IFUNC {
            return Some(address);
        }
        let resolver = core::ptr::with_exposed_provenance::<()>(address as usize);
        // SAFETY: an IFUNC symbol's value is the address of a function without arguments (GNU gABI
        // extension) that returns the implementation's address. The module is relocated and alive.
        let resolver: extern "C" fn() -> u64 = unsafe { core::mem::transmute(resolver) };
        Some(resolver())
    }

    /// The function `name` with symbol version `version` that this file exports. It need not be relocated.
    pub(crate) fn exported_function(&self, name: &[u8], version: &[u8]) -> Option<u64> {
        let (kind, address) = self.definition(name, version)?;
        (kind == STT_FUNC).then_some(address)
    }

    /// Type and address of an exported symbol.
    fn definition(&self, name: &[u8], version: &[u8]) -> Option<(u8, u64)> {
        let table = SymbolTable::of(self)?;
        let index = table.find(name, version)?;
        let symbol = table.symbol(index)?;
        let address = self.load_bias.wrapping_add(symbol.value);
        Some((symbol.info & 15, address))
    }
}

/// What has to be known of every module.
pub(crate) struct Found {
    /// Where to look for more.
    pub elf: LoadedElf,
    /// The addresses from the first to the last loaded byte.
    pub span: Range<u64>,
    /// The GNU build-id; `None` if the file has no such note.
    pub build_id: Option<BuildId>,
}

/// Reads the notes in `range`; alignment as in the program header (4, or 8 for some notes).
fn build_id_note(window: &Window, range: Range<u64>, alignment: u64) -> Option<BuildId> {
    let align = |value: u64| value.next_multiple_of(if alignment == 8 { 8 } else { 4 });
    let mut note = range.start;
    while note + 12 <= range.end {
        let [name_size, size, kind] = window.get::<[u32; 3]>(note)?;
        let name = note + 12;
        let description = note + align(12 + u64::from(name_size));
        if kind == NT_GNU_BUILD_ID && name_size == 4 && window.get::<[u8; 4]>(name)? == *b"GNU\0" {
            let mut bytes = [0; 32];
            let used = bytes.get_mut(..size as usize)?;
            for (byte, address) in used.iter_mut().zip(description..) {
                *byte = window.get(address)?;
            }
            return BuildId::new(used);
        }
        note += align(description - note + u64::from(size));
    }
    None
}

/// The dynamic symbol table and what is needed to search it.
struct SymbolTable {
    symbols: u64,
    strings: u64,
    versions: Option<u64>,
    version_definitions: Option<(u64, u64)>,
    gnu_hash: Option<u64>,
    sysv_hash: Option<u64>,
}

impl SymbolTable {
    fn of(elf: &LoadedElf) -> Option<Self> {
        Some(Self {
            symbols: elf.dynamic_address(DT_SYMTAB)?,
            strings: elf.dynamic_address(DT_STRTAB)?,
            versions: elf.dynamic_address(DT_VERSYM),
            version_definitions: elf
                .dynamic_address(DT_VERDEF)
                .zip(elf.dynamic_value(DT_VERDEFNUM)),
            gnu_hash: elf.dynamic_address(DT_GNU_HASH),
            sysv_hash: elf.dynamic_address(DT_HASH),
        })
    }

    fn symbol(&self, index: u32) -> Option<Symbol> {
        probe(self.symbols + u64::from(index) * size_of::<Symbol>() as u64)
    }

    fn find(&self, name: &[u8], version: &[u8]) -> Option<u32> {
        match (self.gnu_hash, self.sysv_hash) {
            (Some(table), _) => self.find_by_gnu_hash(table, name, version),
            (None, Some(table)) => self.find_by_sysv_hash(table, name, version),
            (None, None) => None,
        }
    }

    fn find_by_gnu_hash(&self, table: u64, name: &[u8], version: &[u8]) -> Option<u32> {
        let hash = name.iter().fold(5381_u32, |hash, byte| {
            hash.wrapping_mul(33).wrapping_add(u32::from(*byte))
        });
        let [buckets, first, bloom_words, _] = probe::<[u32; 4]>(table)?;
        let bucket_table = table + 16 + u64::from(bloom_words) * 8;
        let chain_table = bucket_table + u64::from(buckets) * 4;
        let bucket = bucket_table + u64::from(hash.checked_rem(buckets)?) * 4;
        let mut index = probe::<u32>(bucket)?;
        loop {
            let link = chain_table + u64::from(index.checked_sub(first)?) * 4;
            // The last word of a chain is odd; the other bits are those of the hash.
            let value = probe::<u32>(link)?;
            if value | 1 == hash | 1 && self.matches(index, name, version)? {
                return Some(index);
            }
            if value & 1 == 1 {
                return None;
            }
            index += 1;
        }
    }

    fn find_by_sysv_hash(&self, table: u64, name: &[u8], version: &[u8]) -> Option<u32> {
        let [buckets, count] = probe::<[u32; 2]>(table)?;
        let chains = table + 8 + u64::from(buckets) * 4;
        let bucket = object::elf::hash(name).checked_rem(buckets)?;
        let mut index = probe::<u32>(table + 8 + u64::from(bucket) * 4)?;
        // A chain visits each symbol once at most.
        for _ in 0..count {
            if index == 0 {
                return None;
            }
            if self.matches(index, name, version)? {
                return Some(index);
            }
            index = probe::<u32>(chains + u64::from(index) * 4)?;
        }
        None
    }

    fn matches(&self, index: u32, name: &[u8], version: &[u8]) -> Option<bool> {
        let symbol = self.symbol(index)?;
        let defined = symbol.section != SHN_UNDEF && symbol.info >> 4 != STB_LOCAL;
        let usable = matches!(
            symbol.info & 15,
            STT_FUNC | STT_OBJECT | STT_NOTYPE | STT_GNU_IFUNC
        );
        Some(
            defined
                && usable
                && self.string_is(symbol.name, name)
                && self.version_matches(index, version)?,
        )
    }

    /// Whether the string table has `wanted` at `offset`.
    fn string_is(&self, offset: u32, wanted: &[u8]) -> bool {
        let start = self.strings + u64::from(offset);
        equals(start, wanted).is_ok() && probe::<u8>(start + wanted.len() as u64) == Some(0)
    }

    /// A reference without a version takes the default one, which is not hidden (bit 15).
    fn version_matches(&self, index: u32, version: &[u8]) -> Option<bool> {
        const HIDDEN: u16 = 0x8000;
        let Some(versions) = self.versions else {
            return Some(true);
        };
        let word = probe::<u16>(versions + u64::from(index) * 2)?;
        if version.is_empty() {
            return Some(word & HIDDEN == 0);
        }
        Some(self.defines_version(word & VERSYM_VERSION, version))
    }

    /// Whether the file's version of this number has this name. A file that defines no versions is
    /// taken as it is, as the loader does.
    fn defines_version(&self, number: u16, name: &[u8]) -> bool {
        let Some((mut definition, count)) = self.version_definitions else {
            return true;
        };
        for _ in 0..count {
            // Elf64_Verdef: version, flags, index, number of auxiliary entries (16 bits each), then
            // hash, offset of the first auxiliary entry, offset of the next definition.
            let Some([_, _, index, _]) = probe::<[u16; 4]>(definition) else {
                return false;
            };
            let Some([_, auxiliary, next]) = probe::<[u32; 3]>(definition + 8) else {
                return false;
            };
            if index == number {
                // Elf64_Verdaux begins with the offset of the name.
                let offset = probe::<u32>(definition + u64::from(auxiliary));
                return offset.is_some_and(|offset| self.string_is(offset, name));
            }
            definition += u64::from(next);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The C library of this very test process.
    fn c_library() -> LoadedElf {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let line = maps
            .lines()
            .find(|line| line.contains("libc.so.6"))
            .unwrap();
        let start = u64::from_str_radix(line.split('-').next().unwrap(), 16).unwrap();
        let window = Window::at(start, Window::LENGTH);
        let elf = LoadedElf::with_header_in(start, &window).unwrap();
        let found = LoadedElf::find(start, elf.dynamic_section().unwrap()).unwrap();
        assert_eq!(found.span, elf.span());
        assert_eq!(found.build_id, elf.examine().build_id);
        elf
    }

    unsafe extern "C" {
        fn getppid() -> i32;
        fn dlvsym(handle: usize, name: *const u8, version: *const u8) -> u64;
        fn dlsym(handle: usize, name: *const u8) -> u64;
    }

    #[test]
    fn finds_what_the_dynamic_loader_finds() {
        let library = c_library();
        let expected = getppid as *const () as u64;
        assert_eq!(library.exported_symbol(b"getppid", b""), Some(expected));
        assert_eq!(
            library.exported_symbol(b"getppid", b"GLIBC_2.2.5"),
            Some(expected)
        );
        assert_eq!(library.exported_symbol(b"getppid", b"GLIBC_2.99"), None);
        assert_eq!(library.exported_symbol(b"no_such_function", b""), None);
    }

    #[test]
    fn tells_versions_and_indirect_functions_apart() {
        let library = c_library();
        let versions = [c"GLIBC_2.14", c"GLIBC_2.2.5"];
        for version in versions {
            // SAFETY: RTLD_DEFAULT and two C strings.
            let want = unsafe { dlvsym(0, c"memcpy".as_ptr().cast(), version.as_ptr().cast()) };
            assert_eq!(
                library.exported_symbol(b"memcpy", version.to_bytes()),
                Some(want)
            );
        }
        // SAFETY: RTLD_DEFAULT and a C string.
        let default = unsafe { dlsym(0, c"strlen".as_ptr().cast()) };
        assert_eq!(library.exported_symbol(b"strlen", b""), Some(default));
    }

    #[test]
    fn reads_the_build_id_and_knows_code_from_data() {
        let library = c_library();
        let build_id = library.examine().build_id.unwrap();
        assert_eq!(build_id.as_bytes().len(), 20);
        let code = getppid as *const () as u64;
        assert!(library.is_code(&(code..code + 1)));
        assert!(!library.is_code(&(library.load_bias..library.load_bias + 1)));
        assert!(!library.has_text_relocations());
    }
}
