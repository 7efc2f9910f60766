//! What happens when patches and modules come and go, in which order, and how it is undone.
//!
//! Must not know how the world does what it is told.

mod callbacks;
mod coming;
mod compatible;
mod complete;
mod disable;
mod enable;
mod leaving;
mod lists;
mod objects;
mod states;
mod threads;

pub use leaving::Leaving;
pub use lists::Livepatch;
