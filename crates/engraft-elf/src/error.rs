//! Why something could not be read.

use core::fmt;

/// Why something could not be read. `E` is how memory fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error<E> {
    /// The memory could not be read.
    #[error(transparent)]
    Memory(E),
    /// A table says that it is longer than it can be.
    #[error("{length} bytes at {address:#x} are more than the {limit} that can be right here")]
    TooLong {
        /// Where the table begins.
        address: u64,
        /// Its length in bytes.
        length: u64,
        /// The longest that is read.
        limit: u64,
    },
    /// A list of the dynamic loader does not end.
    #[error("there are more {list} than the {limit} that are read")]
    Endless {
        /// The list.
        list: List,
        /// How many of its entries are read.
        limit: usize,
    },
}

/// A list of the dynamic loader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// The link maps of one namespace.
    LinkMaps,
    /// The namespaces.
    Namespaces,
}

impl List {
    /// What is in it.
    pub fn name(self) -> &'static str {
        match self {
            Self::LinkMaps => "link maps",
            Self::Namespaces => "namespaces of the dynamic loader",
        }
    }
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The length of a table, if it is not longer than `limit`; all in bytes.
pub(crate) fn bounded<E>(address: u64, length: u64, limit: u64) -> Result<u64, Error<E>> {
    match length > limit {
        true => Err(too_long(address, length, limit)),
        false => Ok(length),
    }
}

/// A table is too long.
pub(crate) fn too_long<E>(address: u64, length: u64, limit: u64) -> Error<E> {
    Error::TooLong {
        address,
        length,
        limit,
    }
}
