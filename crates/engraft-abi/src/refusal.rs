//! Why a patch does not fit into a module: the reasons, how each is answered, and its words. The
//! agent refuses for these reasons, and the controller's dry run foresees them, so both say the
//! same.

use crate::Outcome;

/// Why a patch does not fit into a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModuleRefusal<'a> {
    /// The module is being loaded, and its relocations, which come later, would overwrite the
    /// patch.
    TextRelocations,
    /// A part of a function is not in an executable segment of the module.
    NotCode {
        /// The function.
        function: &'a [u8],
        /// The link-time address of the part.
        address: u64,
    },
    /// A part of a function has other bytes than the patch was built against.
    CodeDiffers {
        /// The function.
        function: &'a [u8],
        /// The link-time address of the first byte that differs.
        address: u64,
    },
    /// The patch changes the function of an unwinder that the agent itself replaces.
    Unwinder,
    /// No module defines a symbol that the new code needs.
    SymbolMissing {
        /// The symbol.
        name: &'a [u8],
        /// Its version; empty if any will do.
        version: &'a [u8],
    },
    /// There is no free memory for the new code near the module.
    NoRoom {
        /// Where the module starts.
        module: u64,
    },
}

/// A text that the words of a refusal are appended to.
pub trait RefusalText: Sized {
    /// Appends these bytes, most often UTF-8.
    #[must_use]
    fn push(self, part: &[u8]) -> Self;

    /// Appends `0x` and the digits of the number.
    #[must_use]
    fn push_hexadecimal(self, value: u64) -> Self;
}

impl ModuleRefusal<'_> {
    /// How a command ends that is refused for this reason.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::TextRelocations | Self::NotCode { .. } | Self::CodeDiffers { .. } => {
                Outcome::CodeDiffers
            }
            Self::Unwinder => Outcome::NotAllowed,
            Self::SymbolMissing { .. } => Outcome::SymbolMissing,
            Self::NoRoom { .. } => Outcome::NoMemory,
        }
    }

    /// Appends the reason in words, which follow the name of the module and a colon.
    pub fn describe<T: RefusalText>(&self, text: T) -> T {
        match *self {
            Self::TextRelocations => {
                text.push(b"its code has relocations, which would overwrite the patch (DT_TEXTREL)")
            }
            Self::NotCode { function, address } => text
                .push(b"the code of function '")
                .push(function)
                .push(b"' is not in an executable segment at link-time address ")
                .push_hexadecimal(address),
            Self::CodeDiffers { function, address } => text
                .push(b"the code of function '")
                .push(function)
                .push(b"' differs at link-time address ")
                .push_hexadecimal(address)
                .push(b" from what the patch was built against"),
            Self::Unwinder => {
                text.push(b"engraft itself needs _Unwind_Find_FDE, which cannot be patched")
            }
            Self::SymbolMissing { name, version } => {
                let text = text
                    .push(b"no loaded module defines the symbol '")
                    .push(name);
                let text = match version {
                    b"" => text,
                    version => text.push(b"@").push(version),
                };
                text.push(b"'")
            }
            Self::NoRoom { module } => text
                .push(b"no room for the new code within 2 GiB of the module at ")
                .push_hexadecimal(module),
        }
    }
}
