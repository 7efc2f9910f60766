//! Loaded ELF files and the dynamic loader's lists, read in memory.
//!
//! The agent reads its own process with this, the controller another one: both hand in how bytes
//! are read ([`ReadMemory`]). Whatever is read may be damaged, hostile, or change at the same time.
//! So no reader panics, every loop and every length has a bound ([`limits`]), and addresses wrap
//! around.
//!
//! Facts: System V gABI (file header, program headers, dynamic section, hash table), x86-64 psABI
//! (relocations), LSB core specification (GNU hash table, symbol versions), `<link.h>` of glibc and
//! musl (`r_debug`, `link_map`). The layouts of ELF records are those of the crate `object`.
//!
//! What it does not do: it reads no files and no sections, which are not loaded; it allocates
//! nothing; it calls no resolver of an indirect function; it knows 64-bit little-endian files only.

#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod build_id;
mod dynamic;
mod error;
mod hash;
mod header;
pub mod limits;
mod loader;
mod memory;
mod relocations;
mod segments;
mod symbols;
mod versions;

pub use build_id::find_build_id;
pub use dynamic::Dynamic;
pub use error::{Error, List};
pub use header::FileHeader;
pub use loader::{DebugInterface, LinkMap, LinkMaps, LoaderState, R_STATE, find_twins};
pub use memory::{ReadMemory, Window};
pub use relocations::{Relocation, Relocations};
pub use segments::{Headers, Placement, ProgramHeader, ProgramHeaders};
pub use symbols::{Symbol, Symbols};
pub use versions::Version;
