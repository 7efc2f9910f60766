//! The form of a patch on disk: an ELF64 relocatable file for x86-64.
//!
//! ```text
//! ELF header
//! .engraft.seal        at offset 64: magic, format version, file length, SHA-256 of the file
//! .engraft.manifest    JSON: `readelf -p .engraft.manifest FILE`
//! .engraft.text.N      the image of object N: new code, trampolines,
//! .engraft.rodata.N      read-only data, call frame information,
//! .engraft.data.N        variables and GOT slots,
//! .engraft.bss.N         zero-initialised variables
//! .engraft.old.N       the old functions' bytes, one after the other as the manifest lists them
//! .rela.engraft.*      relocations against named symbols
//! ```
//!
//! An undefined symbol means something outside the image. It is named in the manner of the kernel's
//! `.klp.sym.` symbols, for `readelf`; what it means stands in the manifest's table of references.

mod manifest;
mod read;
mod seal;
mod write;

pub use read::{ReadError, read};
pub use write::{WriteError, write};

use object::elf;

use crate::model::RelocationKind;

/// The format that this version writes, and the only one that it reads.
pub const FORMAT_VERSION: u32 = 2;

const MANIFEST: &str = ".engraft.manifest";

/// The sections of one object.
#[derive(Clone, Copy)]
enum Part {
    Text,
    ReadOnly,
    Data,
    Bss,
    Old,
}

impl Part {
    fn section_name(self, object: usize) -> String {
        let part = match self {
            Self::Text => "text",
            Self::ReadOnly => "rodata",
            Self::Data => "data",
            Self::Bss => "bss",
            Self::Old => "old",
        };
        format!(".engraft.{part}.{object}")
    }
}

/// The number of a relocation kind in the x86-64 psABI, table 4.9.
fn relocation_type(kind: RelocationKind) -> elf::RelocationType {
    match kind {
        RelocationKind::Absolute64 => elf::R_X86_64_64,
        RelocationKind::Absolute32 => elf::R_X86_64_32,
        RelocationKind::Absolute32Signed => elf::R_X86_64_32S,
        RelocationKind::PcRelative32 => elf::R_X86_64_PC32,
        RelocationKind::PcRelative64 => elf::R_X86_64_PC64,
    }
}

/// The inverse of [`relocation_type`].
fn relocation_kind(r_type: elf::RelocationType) -> Option<RelocationKind> {
    match r_type {
        elf::R_X86_64_64 => Some(RelocationKind::Absolute64),
        elf::R_X86_64_32 => Some(RelocationKind::Absolute32),
        elf::R_X86_64_32S => Some(RelocationKind::Absolute32Signed),
        elf::R_X86_64_PC32 => Some(RelocationKind::PcRelative32),
        elf::R_X86_64_PC64 => Some(RelocationKind::PcRelative64),
        _ => None,
    }
}
