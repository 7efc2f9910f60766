//! Processes whose threads keep each other waiting for processors.

use std::sync::OnceLock;

use crate::process::Process;
use crate::task::TaskState;

/// More threads than this for each processor that want one at a time are a crowd. Each then waits for several turns of
/// others, some milliseconds each, whatever we do.
const THREADS_PER_PROCESSOR: usize = 4;

/// Whether a process is a crowd; found out once, since that takes a look at every thread.
#[derive(Default)]
pub(crate) struct Crowd(OnceLock<bool>);

impl Process {
    /// Whether many more threads of the process want a processor than there are processors.
    ///
    /// A thread in which calls are made then waits for its turn at every step of a call, as long as the others run. While
    /// all of them stand still, it has a processor at once, and they are delayed less than they delay each other.
    pub fn is_crowded(&self) -> bool {
        *self.shared.crowd.0.get_or_init(|| self.has_crowd())
    }

    fn has_crowd(&self) -> bool {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let many = processors.saturating_mul(THREADS_PER_PROCESSOR);
        // What cannot be seen is no crowd.
        let threads = self.threads().unwrap_or_default();
        if threads.len() <= many {
            return false;
        }
        let runs = |tid: &&i32| {
            let stat = self.task(**tid).stat();
            matches!(stat, Ok(Some(stat)) if stat.state == TaskState::Running)
        };
        threads.iter().filter(runs).nth(many).is_some()
    }
}
