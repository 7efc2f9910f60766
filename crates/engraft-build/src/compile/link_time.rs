//! Objects for link-time optimisation: what the linker makes of them is not the code in them.

use std::path::Path;

use object::read::elf::ElfFile64;
use object::{LittleEndian, Object as _, ObjectSection as _};

use super::command::Compile;

/// How sections with GCC's intermediate language are called.
pub(crate) const LTO_SECTIONS: &str = ".gnu.lto_";
/// Where fat objects of clang have theirs.
const LLVM_SECTION: &str = ".llvm.lto";
/// What LLVM's bitcode begins with.
const BITCODE: &[u8] = b"BC\xc0\xde";

/// True if the compile leaves its code for the linker to make.
pub(crate) fn is_link_time(compile: &Compile) -> bool {
    compile.asks_for_lto() || (compile.makes_object && has_intermediate_code(&compile.product))
}

fn has_intermediate_code(object: &Path) -> bool {
    let Ok(bytes) = std::fs::read(object) else {
        return false;
    };
    if bytes.starts_with(BITCODE) {
        return true;
    }
    let Ok(elf) = ElfFile64::<LittleEndian>::parse(bytes.as_slice()) else {
        return false;
    };
    let mut names = elf
        .sections()
        .filter_map(|section| Some(section.name().ok()?.to_owned()));
    names.any(|name| name.starts_with(LTO_SECTIONS) || name == LLVM_SECTION)
}
