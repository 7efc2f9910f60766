//! The commands of the user, a file each, named as the user says them; and the processes that a command selects.
//!
//! Must not know the terminal, and the layout of what controller and agent share.

pub(crate) mod apply;
pub(crate) mod capabilities;
pub(crate) mod check;
pub(crate) mod objects;
pub(crate) mod on_timeout;
pub(crate) mod remove;
pub(crate) mod selection;
