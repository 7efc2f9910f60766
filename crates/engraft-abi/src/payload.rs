//! A patch in the form that the agent keeps in the target: a flat, 8-byte aligned buffer that
//! starts with a [`PayloadHeader`]. All offsets are from the start of the buffer.
//!
//! It holds everything that is needed to patch an object that is loaded long after the controller
//! has gone: old code to compare with, new code, relocations.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::table::{Bytes, Table};

/// A GNU build-id, padded with zeroes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BuildIdBytes {
    /// The descriptor of the note.
    pub bytes: [u8; 32],
    /// How many of them count: 1 to 32.
    pub length: u64,
}

/// The start of a payload.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PayloadHeader {
    /// [`crate::VERSION`].
    pub version: u64,
    /// Size of the whole payload in bytes.
    pub length: u64,
    /// The patch's name (UTF-8).
    pub name: Bytes,
    /// What it changes ([`PayloadObject`]).
    pub objects: Table,
}

/// One ELF file that the patch changes.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PayloadObject {
    /// Which one.
    pub build_id: BuildIdBytes,
    /// Its file name, for people.
    pub file_name: Bytes,
    /// The functions that get new code ([`PayloadFunction`]).
    pub functions: Table,
    /// New code; at offset 0 of the image.
    pub text: Bytes,
    /// Constants; at the next page of the image.
    pub read_only: Bytes,
    /// Variables; at the next page of the image.
    pub data: Bytes,
    /// Relocations of all three ([`PayloadRelocation`]).
    pub relocations: Table,
    /// Symbols of other modules that relocations refer to ([`PayloadImport`]).
    pub imports: Table,
    /// Zero-initialised bytes behind `data`.
    pub bss_size: u64,
    /// Where the call frame information of the new code starts, from the start of the image: in the
    /// form of an `.eh_frame` section, among the constants.
    pub unwind_offset: u64,
    /// Its size in bytes, the zero word at its end included; 0 if there is none.
    pub unwind_size: u64,
    /// Bits of [`flags`].
    pub flags: u64,
}

/// Bits of [`PayloadObject::flags`].
pub mod flags {
    /// The image must never be unmapped: the program may hold a pointer to a function in it.
    pub const ADDRESS_ESCAPES: u64 = 1;
    /// The patch is less than its fix. Set in all its objects.
    pub const PARTIAL: u64 = 2;
}

/// An old function and its new code.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PayloadFunction {
    /// The old symbol's name (UTF-8).
    pub name: Bytes,
    /// The pieces of the old function, the entry first ([`PayloadPart`]).
    pub parts: Table,
    /// Where the new code starts, from the start of the image.
    pub new_offset: u64,
    /// Its size in bytes.
    pub new_size: u64,
    /// Where the jump to new code goes, from the start of the old function.
    pub site_offset: u64,
    /// Where the way into the old code behind that jump starts, from the start of the image.
    pub trampoline_offset: u64,
    /// Its size in bytes.
    pub trampoline_size: u64,
    /// [`STUB_SIZE`] bytes of text that the agent fills, 16-byte aligned, from the start of the
    /// image. Until then they trap.
    pub stub_offset: u64,
    /// [`WORDS_SIZE`] bytes of data for the agent, 16-byte aligned, from the start of the image.
    /// Zero at first.
    pub words_offset: u64,
}

/// Size of the room at [`PayloadFunction::stub_offset`] in bytes.
pub const STUB_SIZE: u64 = 48;
/// Size of the room at [`PayloadFunction::words_offset`] in bytes.
pub const WORDS_SIZE: u64 = 16;

/// A contiguous piece of an old function.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PayloadPart {
    /// Link-time address in the old binary.
    pub address: u64,
    /// The bytes that must be there.
    pub code: Bytes,
}

/// A place in the image that depends on addresses in the process.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PayloadRelocation {
    /// Bytes from the start of the image.
    pub place: u64,
    /// One of [`relocation_kind`].
    pub kind: u32,
    /// One of [`relocation_target`].
    pub target: u32,
    /// By target: an offset in the image, a link-time address, an index into the imports.
    pub value: u64,
    /// A of the ABI.
    pub addend: i64,
}

/// Values of [`PayloadRelocation::kind`]: the numbers of the x86-64 psABI.
pub mod relocation_kind {
    /// `R_X86_64_64`.
    pub const ABSOLUTE_64: u32 = 1;
    /// `R_X86_64_PC32`.
    pub const PC_RELATIVE_32: u32 = 2;
    /// `R_X86_64_32`.
    pub const ABSOLUTE_32: u32 = 10;
    /// `R_X86_64_32S`.
    pub const ABSOLUTE_32_SIGNED: u32 = 11;
    /// `R_X86_64_PC64`.
    pub const PC_RELATIVE_64: u32 = 24;
}

/// Values of [`PayloadRelocation::target`].
pub mod relocation_target {
    /// `value` is an offset in the image.
    pub const IMAGE: u32 = 0;
    /// `value` is a link-time address in the object.
    pub const OBJECT: u32 = 1;
    /// `value` is an index into the imports.
    pub const IMPORT: u32 = 2;
}

/// A dynamic symbol of another module.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PayloadImport {
    /// `st_name`.
    pub name: Bytes,
    /// Symbol version; empty where the reference has none.
    pub version: Bytes,
    /// 1: resolves to 0 where nothing defines it.
    pub weak: u64,
}
