//! Why a thread or a suspended context is in the way of a change.

use std::fmt;

use engraft_process::TargetAddress;

/// Why a thread is blocked: why it may not switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlockReason {
    /// It executes the function.
    Running,
    /// It will return into the function.
    Sleeping,
    /// Its stack does not show where it will return to.
    Unreliable,
    /// It is clear, but a suspended context is inside, which it may resume.
    #[serde(rename = "held")]
    ContextSuspended,
}

impl fmt::Display for BlockReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "was running in",
            Self::Sleeping => "had still to return into",
            Self::ContextSuspended => "waits for every suspended context to leave",
            Self::Unreliable => "had a stack that does not show whether it returns into",
        })
    }
}

/// Where a thread holds an address of memory that is to be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// In a register.
    Register {
        /// The address.
        value: TargetAddress,
    },
    /// On its stack.
    Stack {
        /// The address of the word on the stack.
        at: TargetAddress,
        /// The address.
        value: TargetAddress,
    },
    /// Unknown, because its stack cannot be read.
    Unknown {
        /// Why it cannot be read.
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

/// A word in memory by which a suspended context may return into code, or use data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspended {
    /// The address of the word.
    pub at: TargetAddress,
    /// The memory that it is in: the kernel's name, or "anonymous memory".
    pub memory: String,
    /// The value of the word, an address.
    pub value: TargetAddress,
    /// The function that the value is in.
    pub function: String,
    /// Whether the word belongs to a context that is known to be suspended. Otherwise it may be
    /// left over from a call that has returned.
    pub certain: bool,
}

impl fmt::Display for Suspended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            at, memory, value, ..
        } = self;
        match self.certain {
            true => write!(
                f,
                "a context that swapcontext has suspended holds the address {value} at {at} in {memory}"
            ),
            false => write!(
                f,
                "the address {value} at {at} in {memory} may be a suspended context's, or left over"
            ),
        }
    }
}
