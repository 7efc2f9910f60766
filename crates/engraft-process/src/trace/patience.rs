//! How long a thread may take to stop.

use std::time::Duration;

/// How long one thread may keep a processor while others wait for it, on kernels with long time
/// slices.
pub(crate) const LONGEST_SLICE: Duration = Duration::from_millis(10);

/// How long detaching waits for threads that it must first stop, besides their time slices.
pub(super) const LAST_CHANCE: Duration = Duration::from_millis(500);

/// How long we wait for a thread that would stop if it got a processor, which others may want, too.
/// A thread whose call is half undone is the worst result of all; and if it stopped after we have
/// given up, no tracer would resume it.
pub(crate) const PROCESSOR_WITHIN: Duration = Duration::from_secs(60);
