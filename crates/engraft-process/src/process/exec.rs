//! Whether a process still runs the program that it was opened with.

use crate::process::handle::Process;

impl Process {
    /// Whether the process runs another program than when it was opened, or is about to (exec).
    /// Then whatever was found in its memory is about memory that is gone.
    pub fn has_executed(&self) -> bool {
        let Some(before) = self.shared.started_as.get() else {
            return false;
        };
        // A vector that is not there yet shows that a program is being loaded. Each program gets
        // random addresses, so two vectors differ even if the program is the same.
        let now = self.auxiliary_vector().ok().flatten();
        self.is_alive() && now.as_ref() != Some(before)
    }
}
