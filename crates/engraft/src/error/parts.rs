//! Errors of single steps, which [`Error`](super::Error) passes on.

/// The embedded agent is damaged. A build of engraft with this error has never worked.
#[derive(Debug, thiserror::Error)]
#[error("the embedded agent is damaged: {0}")]
pub struct BadBlob(pub(crate) &'static str);

/// Why a patch does not fit into a payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("patch '{name}' is larger than 4 GiB")]
pub struct TooLarge {
    /// The patch.
    pub name: String,
}
