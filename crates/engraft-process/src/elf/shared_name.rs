//! The name by which other files need a library (`DT_SONAME`), read from its memory.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use object::elf;

use crate::elf::modules::Module;
use crate::memory::access::Memory;

/// As long as a file's name may be.
const LONGEST: usize = 255;

impl Module {
    /// Its `DT_SONAME`; `None` if it has none, or cannot be read at this moment.
    pub fn shared_name(&self, memory: Memory<'_>) -> Option<OsString> {
        let dynamic = self.read_dynamic(memory).ok()??;
        let strings = self.dynamic_pointer(dynamic.get(elf::DT_STRTAB)?);
        let name = strings + dynamic.get(elf::DT_SONAME)?;
        let name = memory.read_string(name, LONGEST).ok()?;
        Some(OsString::from_vec(name))
    }
}
