//! What the user asks for, is told meanwhile, and gets: the patch or an error.
//!
//! Must not know how a patch is made.

mod error;
mod progress;
mod report;
mod wanted;

pub use error::{BuildError, Stage};
pub use progress::{Event, Progress, Step};
pub use report::{BuildOutcome, BuildReport, ChangedBinary, MissingSource};
pub use wanted::BuildRequest;
