//! Suspending the seccomp filter of a thread in which a call is made.

use crate::call::call_thread::{CallThread, Result};
use crate::call::remote_call_error::RemoteCallError;
use crate::sys::ptrace;
use crate::trace::tracees::OPTIONS;

const SECCOMP_STRICT: u32 = 1;

impl CallThread<'_> {
    /// Suspends the thread's filter, if we may (CAP_SYS_ADMIN, and a kernel built with
    /// CHECKPOINT_RESTORE). If not, a filter is an error, unless the call is `harmless` under any
    /// filter.
    pub(super) fn suspend_filter(&mut self, harmless: bool) -> Result<()> {
        // Tried first, also where there may be no filter: to look for one takes ten times as long,
        // and threads may be waiting.
        let options = OPTIONS | libc::PTRACE_O_SUSPEND_SECCOMP;
        self.state.is_filter_suspended = ptrace::set_options(self.tid, options).is_ok();
        if self.state.is_filter_suspended {
            return Ok(());
        }
        let status = self.process().task(self.tid).status();
        let status = status.map_err(|source| RemoteCallError::System {
            tid: self.tid,
            operation: "read the status of",
            source,
        })?;
        let mode = status.map_or(0, |status| status.seccomp);
        if mode == 0 || (harmless && mode != SECCOMP_STRICT) {
            return Ok(());
        }
        Err(RemoteCallError::Seccomp { tid: self.tid })
    }

    /// Puts the filter in force again, if it is suspended.
    pub(super) fn resume_filter(&self) -> Result<()> {
        if self.state.is_filter_suspended {
            self.check("set the options of", ptrace::set_options(self.tid, OPTIONS))?;
        }
        Ok(())
    }
}
