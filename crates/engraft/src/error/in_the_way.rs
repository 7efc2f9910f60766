//! How threads are in the way of a change.

use std::fmt;

use engraft_process::TargetAddress;

/// How a thread is in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Inside {
    /// It executes the function.
    Running,
    /// It will return into it.
    Sleeping,
    /// Nobody can tell where it will return to.
    Unreliable,
    /// It is clear, but a suspended context is not, and it may go on with that.
    Held,
}

impl fmt::Display for Inside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "was running in",
            Self::Sleeping => "had still to return into",
            Self::Held => "waits for every suspended context to leave",
            Self::Unreliable => "had a stack that does not show whether it returns into",
        })
    }
}

/// Where a thread holds an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// In a register.
    Register {
        /// The address.
        value: TargetAddress,
    },
    /// On its stack.
    Stack {
        /// Where.
        at: TargetAddress,
        /// The address.
        value: TargetAddress,
    },
    /// Nobody can tell, because its stack cannot be looked at.
    Unknown {
        /// Why.
        reason: String,
    },
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Register { value } => write!(f, "had the address {value} in a register, inside"),
            Self::Stack { at, value } => {
                write!(f, "had the address {value} on its stack at {at}, inside")
            }
            Self::Unknown { reason } => {
                write!(
                    f,
                    "had a stack that does not show ({reason}) whether it refers to"
                )
            }
        }
    }
}
