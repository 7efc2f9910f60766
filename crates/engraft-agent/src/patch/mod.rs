//! One patch in memory: its payload, its images, the sites that lead to them, and dispatch, which
//! chooses for each call of a function in transition.
//!
//! Must not know which patches there are, in which order, nor when modules come and go.

pub(crate) mod caller_frame;
pub(crate) mod dispatch;
pub(crate) mod image;
pub(crate) mod payloads;
pub(crate) mod site;
