//! A program or shared library, with what its tables say.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::ops::Range;
use std::path::PathBuf;

use engraft_patch::{BuildId, LinkAddress};

/// A program or shared library.
#[derive(Debug)]
pub(crate) struct Binary {
    pub(crate) path: PathBuf,
    pub(crate) build_id: BuildId,
    pub(super) segments: Vec<LoadSegment>,
    /// Functions and variables of `.symtab` and `.dynsym` that are defined here, by name.
    pub(super) symbols: HashMap<String, Vec<Symbol>>,
    /// GOT slots that the loader fills with the address of a symbol, by its name.
    pub(super) slots: HashMap<String, GotSlots>,
    /// Versions of the symbols that the binary imports.
    pub(super) versions: HashMap<String, String>,
    /// Pointers that the loader relocates: place → link-time address.
    pub(super) relative: HashMap<u64, u64>,
    /// `.eh_frame`, with its address.
    pub(crate) eh_frame: Option<(u64, Vec<u8>)>,
    /// Where `.init` is.
    pub(crate) initialiser: Option<Range<u64>>,
    /// False for a static program: nothing can be imported.
    pub(crate) is_dynamic: bool,
    pub(crate) has_symtab: bool,
    /// Names of the source files that the compiler noted, those of the C library's startup code
    /// aside.
    pub(crate) source_files: HashSet<OsString>,
}

#[derive(Debug)]
pub(super) struct LoadSegment {
    pub(super) address: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) is_executable: bool,
}

/// A defined symbol.
#[derive(Debug, Clone)]
pub(crate) struct Symbol {
    pub(crate) address: LinkAddress,
    pub(crate) local: bool,
    /// For a local symbol, the source file that the compiler named (`STT_FILE`).
    pub(crate) file: Option<String>,
}

/// The slots of one symbol.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct GotSlots {
    /// `R_X86_64_JUMP_SLOT`: good for calls; until the first one it may lead to the resolver.
    pub(crate) jump: Option<LinkAddress>,
    /// `R_X86_64_GLOB_DAT`: holds the address itself.
    pub(crate) data: Option<LinkAddress>,
}

impl Binary {
    /// The file's name, without directories.
    pub(crate) fn file_name(&self) -> String {
        self.path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }

    /// Initialised bytes at an address, all of them or none.
    pub(crate) fn bytes(&self, address: u64, length: u64) -> Option<&[u8]> {
        let (segment, offset) = self.segment(address)?;
        let end = offset.checked_add(usize::try_from(length).ok()?)?;
        segment.bytes.get(offset..end)
    }

    /// Executable bytes from an address on, `limit` at most.
    pub(crate) fn code(&self, address: u64, limit: usize) -> &[u8] {
        let Some((segment, offset)) = self.segment(address) else {
            return &[];
        };
        if !segment.is_executable {
            return &[];
        }
        let rest = segment.bytes.get(offset..).unwrap_or_default();
        rest.get(..limit).unwrap_or(rest)
    }

    /// Every executable segment with its address.
    pub(crate) fn executable(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.segments
            .iter()
            .filter(|s| s.is_executable)
            .map(|s| (s.address, s.bytes.as_slice()))
    }

    /// The pointer at an address, as a link-time address.
    pub(crate) fn pointer(&self, address: u64) -> Option<u64> {
        match self.relative.get(&address) {
            Some(&target) => Some(target),
            None => Some(u64::from_le_bytes(self.bytes(address, 8)?.try_into().ok()?)),
        }
    }

    /// True if a symbol or a pointer that the loader relocates leads into a range.
    pub(crate) fn is_referred_to(&self, range: &std::ops::Range<u64>) -> bool {
        let mut symbols = self.symbols.values().flatten();
        symbols.any(|symbol| range.contains(&symbol.address.0))
            || self.relative.values().any(|target| range.contains(target))
    }

    /// The 32-bit field at an address.
    pub(crate) fn field(&self, address: u64) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes(address, 4)?.try_into().ok()?))
    }

    pub(crate) fn symbols(&self, name: &str) -> &[Symbol] {
        self.symbols
            .get(name)
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    /// The one global definition of a name.
    pub(crate) fn global(&self, name: &str) -> Option<LinkAddress> {
        self.symbols(name)
            .iter()
            .find(|symbol| !symbol.local)
            .map(|symbol| symbol.address)
    }

    pub(crate) fn slots(&self, name: &str) -> GotSlots {
        self.slots.get(name).copied().unwrap_or_default()
    }

    pub(crate) fn version(&self, name: &str) -> Option<&str> {
        self.versions.get(name).map(String::as_str)
    }

    fn segment(&self, address: u64) -> Option<(&LoadSegment, usize)> {
        self.segments.iter().find_map(|segment| {
            let offset = usize::try_from(address.checked_sub(segment.address)?).ok()?;
            (offset < segment.bytes.len()).then_some((segment, offset))
        })
    }
}
