//! An empty library, which a refused library seems to need.
//!
//! glibc from 2.35 on announces a load when the library is already mapped, and unmaps it only if
//! the load fails after that. A need that is not found would make it fail. But then the loader adds
//! words of its own to the reason: "cannot open shared object file", and the error number of the
//! open. No path avoids that. So the refused library seems to need this one, which is found. The
//! loader announces it as well, while it searches for needs, and at that announcement the hook
//! raises an error of its own. The loader then unmaps both.
//!
//! The library is a file in memory. Where the process can have none, or the loader could not open
//! it, the refused library seems to need a library that is not found, whose name is the reason.

use crate::loader::namespaces::LinkMap;
use crate::system::File;
use crate::system::failure::Text;

/// A file that the loader takes for a library.
pub(crate) struct EmptyLibrary {
    /// Stays open until the load has failed.
    _file: File,
    path: Text,
}

impl EmptyLibrary {
    /// `None` if the loader could not open it.
    // Not inlined: refusals are rare.
    #[inline(never)]
    pub(crate) fn new() -> Option<Self> {
        let file = File::in_memory(c"engraft-refusal", size_of_val(&LIBRARY)).ok()?;
        // SAFETY: the file is new.
        #[expect(unsafe_code, reason = "the file could be the process's memory")]
        let written = unsafe { file.write_at(zerocopy::IntoBytes::as_bytes(&LIBRARY), 0) };
        written.ok()?;
        // The path of the thread, because the process's leader may have exited.
        let path = Text::EMPTY.push(b"/proc/thread-self/fd/");
        let mut path = path.push_decimal(file.number());
        File::open(path.as_c_str()?).ok()?;
        Some(Self { _file: file, path })
    }

    /// Its path, as a C string that lives as long as `self`.
    pub(crate) fn path(&mut self) -> *const u8 {
        self.path.as_c_string()
    }

    /// Whether `link_map` is this library.
    pub(crate) fn is(&self, link_map: LinkMap) -> bool {
        self.path.as_bytes() == link_map.name()
    }
}

/// The size of the file in bytes, and where its dynamic section, its strings and its symbols start.
const SIZE: u64 = 43 * 8;
const DYNAMIC: u64 = 29 * 8;
const STRINGS: u64 = 39 * 8;
const SYMBOLS: u64 = 40 * 8;

const READ_WRITE: u64 = 6 << 32;

/// The file, for a little-endian machine. Its one segment is writable because the loader writes
/// into the dynamic section. Without `PT_GNU_STACK` the loader would make the program's stacks
/// executable.
static LIBRARY: [u64; 43] = [
    // The header: ELF, 64 bits, version 1;
    0x0001_0102_464c_457f,
    0,
    // a shared object for x86-64;
    3 | 62 << 16 | 1 << 32,
    0,
    // the program headers follow;
    64,
    0,
    64 << 32 | 56 << 48,
    3,
    // PT_LOAD,
    1 | READ_WRITE,
    0,
    0,
    0,
    SIZE,
    SIZE,
    4096,
    // PT_DYNAMIC,
    2 | READ_WRITE,
    DYNAMIC,
    DYNAMIC,
    DYNAMIC,
    80,
    80,
    8,
    // and PT_GNU_STACK.
    0x6474_e551 | READ_WRITE,
    0,
    0,
    0,
    0,
    0,
    16,
    // DT_STRTAB and DT_STRSZ,
    5,
    STRINGS,
    10,
    8,
    // DT_SYMTAB and DT_SYMENT,
    6,
    SYMBOLS,
    11,
    24,
    // and DT_NULL.
    0,
    0,
    // The empty string, and the symbol that every table begins with.
    0,
    0,
    0,
    0,
];
