//! What a patch says: patch → objects → functions, and the new code with its relocations.

pub use engraft_machine::{BuildId, LinkAddress};
use serde::{Deserialize, Serialize};

/// One named fix. Its functions change together, in all its objects, or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch {
    /// Unique among the patches of a process; what `engraft disable NAME` takes. 1 to 63 bytes of
    /// `[A-Za-z0-9._-]`.
    pub name: String,
    /// The ELF files that the patch changes; no two with the same build-id.
    pub objects: Vec<Object>,
    /// Where it is less than the fix, or was not proven sound, because its author said so.
    pub concessions: Concessions,
}

/// What the author of a patch has accepted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Concessions {
    /// What the fix changes and the patch does not (`engraft build --partial`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
    /// Types whose layout the fix changes (`engraft build --accept-layout`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accepted_layouts: Vec<String>,
}

impl Concessions {
    /// True if part of the fix is missing.
    pub fn is_partial(&self) -> bool {
        !self.missing.is_empty()
    }

    /// True if there is nothing to know.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.accepted_layouts.is_empty()
    }
}

/// A function or variable that the fix changes and the patch does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Missing {
    /// Its name.
    pub name: String,
    /// Its source file.
    pub source_file: String,
}

/// One ELF file that a patch changes: the main program or a shared library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Names the object; a module with another build-id is another object.
    pub build_id: BuildId,
    /// The file's name when the patch was built, without directories. For people only.
    pub file_name: String,
    /// The functions that get new code.
    pub functions: Vec<Function>,
    /// The new code and data, laid out once, placed near the module at apply time.
    pub image: Image,
}

/// An old function and where its new code is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// The symbol name in the old binary.
    pub name: String,
    /// Every part of the old function (the entry first, then `.cold` and the like).
    pub parts: Vec<OldPart>,
    /// Entry of the new code, always in [`Segment::Text`].
    pub new_entry: ImageAddress,
    /// Size of the new code at `new_entry`, in bytes.
    pub new_size: u64,
    /// The way into the old code while its [site](crate::site) leads elsewhere.
    pub trampoline: Trampoline,
}

/// The old function's instructions that its site overwrites, moved into the image, and a jump to
/// the rest of it. Calling it is calling the old function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trampoline {
    /// Its first instruction, always in [`Segment::Text`].
    pub entry: ImageAddress,
    /// Its size in bytes, the jump included.
    pub size: u64,
}

/// A contiguous piece of an old function in the old binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldPart {
    /// Where it starts.
    pub address: LinkAddress,
    /// Its bytes in the binary that the patch was built against. A module whose bytes differ is
    /// refused.
    pub code: Vec<u8>,
}

/// The new code and data for one object.
///
/// In memory the segments lie at increasing addresses in the order text, read-only, data (with its
/// zero-initialised tail); each starts on a page of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Image {
    /// Read + execute.
    pub text: Vec<u8>,
    /// Read only once relocated.
    pub read_only: Vec<u8>,
    /// Read + write: new variables, GOT slots.
    pub data: Vec<u8>,
    /// Zero-initialised bytes after `data`.
    pub bss_size: u64,
    /// To be applied, in any order, when the addresses are known.
    pub relocations: Vec<Relocation>,
    /// Call frame information of the new code, always in [`Segment::ReadOnly`]: in the form of an
    /// `.eh_frame` section, once relocated, and ended by a zero word. What it does not describe,
    /// trampolines among it, has frames that cannot be walked.
    pub unwind: Option<ImageRange>,
    /// True if the address of a function that exists only in this image may be kept by the program
    /// (it is stored or passed on, not only called): such an image is never unmapped while the
    /// process lives, because the program may still hold the pointer anywhere.
    pub address_escapes: bool,
}

impl Image {
    /// The initialised bytes of a segment.
    pub fn bytes(&self, segment: Segment) -> &[u8] {
        match segment {
            Segment::Text => &self.text,
            Segment::ReadOnly => &self.read_only,
            Segment::Data => &self.data,
        }
    }

    /// The size of a segment in memory, zero-initialised bytes included.
    pub fn size(&self, segment: Segment) -> u64 {
        let bytes = self.bytes(segment).len() as u64;
        match segment {
            Segment::Text | Segment::ReadOnly => bytes,
            Segment::Data => bytes.saturating_add(self.bss_size),
        }
    }
}

/// A segment of an [`Image`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Segment {
    /// [`Image::text`].
    Text,
    /// [`Image::read_only`].
    ReadOnly,
    /// [`Image::data`] and the zero-initialised bytes after it.
    Data,
}

/// A place in an [`Image`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ImageAddress {
    /// The segment.
    pub segment: Segment,
    /// Bytes from the start of the segment.
    pub offset: u64,
}

/// A piece of an [`Image`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageRange {
    /// Where it starts.
    pub start: ImageAddress,
    /// Its size in bytes.
    pub size: u64,
}

/// A place in the image that depends on addresses known only in the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relocation {
    /// Where to write.
    pub place: ImageAddress,
    /// What to write there, and how wide.
    pub kind: RelocationKind,
    /// S in the ABI's notation.
    pub target: RelocationTarget,
    /// A in the ABI's notation.
    pub addend: i64,
}

/// The relocations of the x86-64 psABI (section 4.4) that an image can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RelocationKind {
    /// `R_X86_64_64`: S + A, 64 bits.
    Absolute64,
    /// `R_X86_64_32`: S + A, 32 bits, zero-extended (non-PIE code).
    Absolute32,
    /// `R_X86_64_32S`: S + A, 32 bits, sign-extended (non-PIE code).
    Absolute32Signed,
    /// `R_X86_64_PC32`, `R_X86_64_PLT32`: S + A - P, 32 bits.
    PcRelative32,
    /// `R_X86_64_PC64`: S + A - P, 64 bits.
    PcRelative64,
}

impl RelocationKind {
    /// How many bytes are written.
    pub fn width(self) -> u64 {
        match self {
            Self::Absolute64 | Self::PcRelative64 => 8,
            Self::Absolute32 | Self::Absolute32Signed | Self::PcRelative32 => 4,
        }
    }
}

/// What a relocation refers to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RelocationTarget {
    /// Something in the same image.
    Image(ImageAddress),
    /// Something in the old binary, by its address there. A patched function is always named this
    /// way, by its old entry, from new code too: pointers stay equal, and a later patch on top is
    /// seen.
    Object {
        /// Name of the symbol, for people and for `readelf`.
        name: String,
        /// Its address.
        address: LinkAddress,
    },
    /// A symbol that another module defines, looked up when the patch is applied. Only
    /// [`RelocationKind::Absolute64`] with addend 0 may refer to it, that is, a GOT slot.
    Import(Import),
}

/// A dynamic symbol of another module.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Import {
    /// `st_name`.
    pub name: String,
    /// The symbol version (`GLIBC_2.14`), if the reference has one.
    pub version: Option<String>,
    /// An undefined weak reference resolves to 0 where nothing defines it.
    pub weak: bool,
}
