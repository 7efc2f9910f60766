//! The commands of the user, a file each, named as the user says them; and the selection of
//! processes for them.
//!
//! A command works on one process: it finds the session, adopts what another controller has left,
//! and performs its change. This folder must not know the terminal, the stacks of threads, and the
//! layout of what controller and agent share.

pub(crate) mod applied;
pub(crate) mod apply;
pub(crate) mod check;
pub(crate) mod disable;
pub(crate) mod enable;
pub(crate) mod force;
mod module_check;
pub(crate) mod objects;
pub(crate) mod on_timeout;
pub(crate) mod remove;
pub(crate) mod remove_agent;
pub(crate) mod selection;
pub(crate) mod status;
pub(crate) mod wait;
