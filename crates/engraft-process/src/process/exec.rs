//! Whether a process still runs the program that it was opened with.

use crate::process::handle::Process;

impl Process {
    /// Does it run another program than when it was opened, or is it about to (exec)? What was found out about its memory
    /// is then about memory that is gone.
    pub fn has_executed(&self) -> bool {
        let Some(before) = self.shared.started_as.get() else {
            return false;
        };
        // Not yet there: the new program is being loaded. The addresses in it are drawn by lot for each program.
        let now = self.auxiliary_vector().ok().flatten();
        self.is_alive() && now.as_ref() != Some(before)
    }
}
