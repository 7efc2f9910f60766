//! Where the code of a binary differs from what the source compiles to.

/// Where the code in the binary is not the object's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "at {address:#x} (function + {offset:#x}) the source gives {expected}, the binary has {found}"
)]
pub struct Mismatch {
    /// Link-time address of the instruction.
    pub address: u64,
    /// Its offset in the function.
    pub offset: u64,
    /// What the source compiles to.
    pub expected: String,
    /// What is there.
    pub found: String,
}
