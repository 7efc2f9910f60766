//! How much is read of a loaded file and of the loader's lists.
//!
//! Each bound is far above what real programs have; the largest that was seen is in its comment.

/// Program headers of one file; real files have up to 20.
pub const PROGRAM_HEADERS: u64 = 1024;
/// Bytes of one note segment; real ones have a few hundred.
pub const NOTES: u64 = 64 << 10;
/// Entries of one dynamic section; real ones have about 30, and one for each library that is
/// needed.
pub const DYNAMIC_ENTRIES: u64 = 4096;
/// Symbols in one chain of a hash table; real chains have fewer than ten.
pub const HASH_CHAIN: u32 = 4096;
/// Versions that one file defines; glibc has about fifty.
pub const VERSION_DEFINITIONS: u64 = 1024;
/// Relocations of one procedure linkage table; that of glibc's loader has fewer than fifty.
pub const RELOCATIONS: u64 = 1 << 16;
/// Bytes of the loader's variables (`_rtld_global`); glibc has about 4 KiB.
pub const LOADER_VARIABLES: u64 = 64 << 10;
/// Link maps of one namespace. Large Java and Python programs have some hundred.
pub const LINK_MAPS: usize = 1 << 14;
/// Namespaces; glibc has 16.
pub const NAMESPACES: usize = 64;
