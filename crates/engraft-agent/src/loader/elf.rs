//! A loaded ELF file as it is in memory: program headers, build-id, dynamic section, symbols.
//!
//! All reading goes through the kernel: a module may be unmapped at any moment by a thread in
//! dlclose, and then there is no answer instead of a crash.

#![expect(unsafe_code, reason = "calls the resolvers of indirect functions")]

use core::ops::Range;

use engraft_core::BuildId;
use engraft_elf::{
    Dynamic, FileHeader, Placement, ProgramHeader, ProgramHeaders, ReadMemory, Symbol, Symbols,
    Version, Window, find_build_id,
};
use object::elf::{
    DF_TEXTREL, DT_FLAGS, DT_TEXTREL, PF_X, PT_LOAD, PT_NOTE, STT_FUNC, STT_GNU_IFUNC,
};

use crate::system::memory::{AtOnce, OwnMemory};

const PAGE: u64 = 4096;

/// One loaded ELF file.
#[derive(Clone, Copy)]
pub(crate) struct LoadedElf {
    /// Difference between addresses in the process and link-time addresses.
    pub load_bias: u64,
    program_headers: ProgramHeaders,
}

impl LoadedElf {
    /// The file whose program headers are at an address that is known (`AT_PHDR`).
    pub(crate) fn with_program_headers(load_bias: u64, address: u64, count: u64) -> Self {
        Self {
            load_bias,
            program_headers: ProgramHeaders::new(address, count),
        }
    }

    /// The file that the loader mapped with `load_bias`; `None` if no ELF header is found there.
    /// Only in the loader's hook.
    ///
    /// The ELF header is part of the first segment, whose link-time address is 0 in every shared
    /// object that a link editor makes by default; a prelinked one has another, and lies below its
    /// dynamic section.
    pub(crate) fn find(load_bias: u64, dynamic: u64) -> Option<Found> {
        const FARTHEST: u64 = 4096;
        let start = AtOnce::in_place(load_bias);
        if let Some(elf) = Self::with_header_in(load_bias, load_bias, &start.window()) {
            return Some(elf.examine_in(&start.window()));
        }
        let elf = (0..FARTHEST)
            .map_while(|page| (dynamic & !(PAGE - 1)).checked_sub(page * PAGE))
            .find_map(|start| {
                let window = AtOnce::in_place(start);
                Self::with_header_in(load_bias, start, &window.window())
            })
            .filter(|elf| {
                elf.dynamic()
                    .is_some_and(|found| found.address() == dynamic)
            })?;
        Some(elf.examine())
    }

    /// The file whose ELF header is at `start`.
    fn with_header_in(load_bias: u64, start: u64, window: &Window<'_, OwnMemory>) -> Option<Self> {
        let header = FileHeader::read(window, start).ok()??;
        Some(Self {
            load_bias,
            program_headers: header.program_headers,
        })
    }

    /// What has to be known of every module.
    pub(crate) fn examine(self) -> Found {
        self.examine_in(&self.copy_headers().window())
    }

    #[inline(never)]
    fn examine_in(self, window: &Window<'_, OwnMemory>) -> Found {
        let mut notes = self.headers(window).filter(|header| header.kind == PT_NOTE);
        Found {
            elf: self,
            span: self.placement(window).span,
            build_id: notes.find_map(|header| self.build_id(window, &header)),
        }
    }

    /// The program headers, read at once: each read is a system call, while all threads may be
    /// standing still.
    fn copy_headers(&self) -> AtOnce {
        let length = self.program_headers.length::<()>().unwrap_or_default();
        AtOnce::copy(self.program_headers.address(), length)
    }

    /// The program headers, up to one that cannot be read.
    fn headers<'w>(
        &self,
        window: &'w Window<'_, OwnMemory>,
    ) -> impl Iterator<Item = ProgramHeader> + use<'w> {
        self.program_headers.iter(window).map_while(Result::ok)
    }

    // Not inlined: the agent is to be small.
    #[inline(never)]
    fn placement(&self, window: &Window<'_, OwnMemory>) -> Placement {
        Placement::of(self.load_bias, self.headers(window))
    }

    /// The build-id in the notes of this segment, if it has one.
    fn build_id(&self, window: &Window<'_, OwnMemory>, notes: &ProgramHeader) -> Option<BuildId> {
        let range = notes.range(self.load_bias);
        let place = find_build_id(window, range, notes.alignment).ok()??;
        let mut bytes = [0; 32];
        let used = bytes.get_mut(..place.end.wrapping_sub(place.start) as usize)?;
        window.read(place.start, used).ok()?;
        BuildId::new(used)
    }

    /// Whether all of `range` lies in one executable segment.
    pub(crate) fn is_code(&self, range: &Range<u64>) -> bool {
        let copy = self.copy_headers();
        self.headers(&copy.window()).any(|header| {
            let segment = header.range(self.load_bias);
            header.kind == PT_LOAD
                && header.flags & PF_X != 0
                && segment.start <= range.start
                && range.end <= segment.end
        })
    }

    fn dynamic(&self) -> Option<Dynamic> {
        let copy = self.copy_headers();
        self.headers(&copy.window())
            .find_map(|header| Dynamic::of(&header, self.load_bias))
    }

    /// Whether relocation changes the file's code (`DT_TEXTREL`): a patch that is applied before
    /// that would be overwritten.
    pub(crate) fn has_text_relocations(&self) -> bool {
        let value = |tag| self.dynamic()?.get(&OwnMemory, tag).ok()?;
        value(DT_TEXTREL).is_some()
            || value(DT_FLAGS).is_some_and(|flags| flags & u64::from(DF_TEXTREL) != 0)
    }

    /// The definition of `name` (with symbol version `version`, unless empty) that this file
    /// exports.
    ///
    /// The file must be relocated: an IFUNC's resolver is called.
    pub(crate) fn exported_symbol(&self, name: &[u8], version: &[u8]) -> Option<u64> {
        let symbol = self.definition(name, version)?;
        if symbol.kind != STT_GNU_IFUNC {
            return Some(symbol.address);
        }
        let resolver = core::ptr::with_exposed_provenance::<()>(symbol.address as usize);
        // SAFETY: an IFUNC symbol's value is the address of a function without arguments (GNU gABI
        // extension) that returns the implementation's address. The module is relocated and alive.
        let resolver: extern "C" fn() -> u64 = unsafe { core::mem::transmute(resolver) };
        Some(resolver())
    }

    /// The function `name` with symbol version `version` that this file exports. It need not be
    /// relocated.
    pub(crate) fn exported_function(&self, name: &[u8], version: &[u8]) -> Option<u64> {
        let symbol = self.definition(name, version)?;
        (symbol.kind == STT_FUNC).then_some(symbol.address)
    }

    /// An exported symbol. A reference without a version takes the default one.
    fn definition(&self, name: &[u8], version: &[u8]) -> Option<Symbol> {
        let version = match version {
            b"" => Version::Default,
            name => Version::Named(name),
        };
        let placement = self.placement(&self.copy_headers().window());
        let table = Symbols::find_table(&OwnMemory, &self.dynamic()?, &placement);
        table.ok()??.find(&OwnMemory, name, version).ok()?
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

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use object::elf::{DT_HASH, DT_STRTAB, DT_SYMTAB, DT_VERDEF, DT_VERDEFNUM, DT_VERSYM};

    use super::*;

    /// The C library of this very test process.
    fn c_library() -> LoadedElf {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let line = maps
            .lines()
            .find(|line| line.contains("libc.so.6"))
            .unwrap();
        let start = u64::from_str_radix(line.split('-').next().unwrap(), 16).unwrap();
        let header = AtOnce::copy(start, AtOnce::LENGTH);
        let elf = LoadedElf::with_header_in(start, start, &header.window()).unwrap();
        let found = LoadedElf::find(start, elf.dynamic().unwrap().address()).unwrap();
        assert_eq!(found.span, elf.examine().span);
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

    /// A file whose only symbol is `name`, with a hash table, symbol versions and a definition of a
    /// version that the test says. It is loaded wherever the memory is.
    struct Damaged(Vec<u8>);

    impl Damaged {
        const SIZE: u64 = 1024;

        fn new(chain: u32, version: u16, definitions: u64) -> Self {
            let mut file = Self(vec![0; Self::SIZE as usize]);
            file.put(0, &[1, 7].map(u32::to_le_bytes).concat());
            file.put(40, &Self::SIZE.to_le_bytes());
            file.put(56, &[2, 6].map(u32::to_le_bytes).concat());
            file.put(56 + 16, &128_u64.to_le_bytes());
            file.put(56 + 40, &192_u64.to_le_bytes());
            let dynamic = [
                [u64::from(DT_SYMTAB), 320],
                [u64::from(DT_STRTAB), 384],
                [u64::from(DT_HASH), 400],
                [u64::from(DT_VERSYM), 448],
                [u64::from(DT_VERDEF), 464],
                [u64::from(DT_VERDEFNUM), definitions],
            ];
            file.put(
                128,
                &dynamic
                    .concat()
                    .iter()
                    .flat_map(|word| word.to_le_bytes())
                    .collect::<Vec<_>>(),
            );
            // Symbol 1: its name, a global function, in a section.
            file.put(320 + 24, &[1, 0, 0, 0, 0x12, 0, 1, 0]);
            file.put(384, b"\0name\0");
            // One bucket, and any number of chain words; the bucket, the words of symbols 0 and 1.
            file.put(
                400,
                &[1, u32::MAX, 1, 0, chain].map(u32::to_le_bytes).concat(),
            );
            file.put(450, &version.to_le_bytes());
            // The definition of version 1, which is followed by itself.
            file.put(464, &[1, 0, 1, 1].map(u16::to_le_bytes).concat());
            file
        }

        fn put(&mut self, offset: usize, bytes: &[u8]) {
            self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
        }

        fn loaded(&self) -> LoadedElf {
            let address = self.0.as_ptr().expose_provenance() as u64;
            LoadedElf::with_program_headers(address, address, 2)
        }
    }

    #[test]
    fn a_symbol_is_found_in_a_file_that_is_not_damaged() {
        let file = Damaged::new(0, 1, 0);
        let found = file.loaded().exported_function(b"name", b"");
        assert_eq!(found, Some(file.loaded().load_bias));
    }

    #[test]
    fn a_hash_chain_that_leads_back_to_itself_ends() {
        let file = Damaged::new(1, 1, 0);
        assert_eq!(file.loaded().exported_symbol(b"other", b""), None);
    }

    #[test]
    fn versions_that_lead_back_to_themselves_end() {
        let file = Damaged::new(0, 2, u64::MAX);
        assert_eq!(file.loaded().exported_symbol(b"name", b"VERSION"), None);
    }
}
