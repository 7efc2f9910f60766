//! What cannot be patched: every reason, with its data and its text.
//!
//! Must not know how a reason is found: it stands below all that finds one.

mod mismatch;
mod reasons;
mod summary;
mod unmovable;

pub use mismatch::Mismatch;
pub use reasons::{Hex, Refusal};
pub(crate) use summary::{by_subject, each_once};
pub use unmovable::Unmovable;
