//! Transitions as the controller makes them. A change begins in one stop, in which every thread
//! that is clear switches. Every other thread stays in its universe, and is checked again until it
//! has switched; then the transition is complete.
//!
//! The state of a transition is in the agent. A controller that finds a transition open, whoever
//! began it, continues it.
//!
//! | file | what it does |
//! |---|---|
//! | `change` | the changes that there are |
//! | `begin` | begins a change in one stop |
//! | `try_complete` | checks pending threads until all have switched |
//! | `last_check` | when a pending thread is to be checked again |
//! | `perform` | begins, completes, and undoes what failed |
//! | `reverse` | reverses an open transition |
//! | `adopt` | continues what another controller has left |
//! | `blockers` | says which threads have yet to switch, and why |
//! | `stack_check`, `stop_check` | whether a thread, or all threads of a stop, are clear |
//! | `suspended` | whether a suspended context is inside |
//! | `references` | whether a thread refers to memory that is to be removed |
//! | `door`, `thread_list` | what the agent is told of threads that are not clear |
//! | `redirect` | threads in the middle of bytes that a site overwrites |
//!
//! This folder must not know patch files, which processes were selected, and how the agent came
//! into the process.

pub(crate) mod adopt;
mod begin;
pub(crate) mod blockers;
pub(crate) mod change;
mod door;
mod last_check;
pub(crate) mod perform;
mod redirect;
pub(crate) mod references;
pub(crate) mod reverse;
pub(crate) mod stack_check;
mod stop_check;
pub(crate) mod suspended;
mod thread_list;
pub(crate) mod try_complete;
