//! The threads that we trace: attaching to them, stopping them, and detaching from single ones.
//!
//! Must not know: calls and what a stop is for. So the order in which stopped threads are resumed
//! is decided above, in `stop`, where it is known whether a call has to be undone first.

pub(crate) mod detaching;
pub(crate) mod events;
pub(crate) mod one_by_one;
pub(crate) mod patience;
pub(crate) mod reaper;
pub(crate) mod seizing;
pub(crate) mod stop_error;
pub(crate) mod stop_progress;
pub(crate) mod stopping;
pub(crate) mod thread_state;
pub(crate) mod traced_threads;
pub(crate) mod tracees;
