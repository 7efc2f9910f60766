//! seccomp filters: whether we may suspend them, and which threads have one.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

use crate::process::handle::Process;

/// The inode of the first user namespace (`PROC_USER_INIT_INO`, include/linux/proc_ns.h).
const FIRST_USER_NAMESPACE: u64 = 0xefff_fffd;
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// Whether this process may suspend the filters of threads that it traces. The kernel requires
/// CAP_SYS_ADMIN in the first user namespace, and a tracer without a filter of its own
/// (`check_ptrace_options`, kernel/ptrace.c).
pub fn may_suspend_filters() -> bool {
    static MAY: OnceLock<bool> = OnceLock::new();
    *MAY.get_or_init(|| {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        let namespace = fs::metadata("/proc/self/ns/user").map(|it| it.ino());
        is_privileged(&status) && matches!(namespace, Ok(FIRST_USER_NAMESPACE))
    })
}

/// Whether a thread with this status file has the capability, and no filter.
fn is_privileged(status: &str) -> bool {
    let field = |name| {
        let mut lines = status.lines();
        let value = lines.find_map(|line| line.strip_prefix(name));
        value.map(str::trim)
    };
    let capabilities = field("CapEff:").and_then(|it| u64::from_str_radix(it, 16).ok());
    capabilities.is_some_and(|it| it & CAP_SYS_ADMIN != 0) && field("Seccomp:") == Some("0")
}

impl Process {
    /// Whether the thread has a filter that we may not suspend, so that calls in it may be
    /// forbidden.
    pub(crate) fn is_bound_by_filter(&self, tid: i32) -> bool {
        let status = || self.task(tid).status();
        !may_suspend_filters() && matches!(status(), Ok(Some(status)) if status.seccomp != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_of_our_own_takes_the_right_away() {
        assert!(is_privileged("CapEff:\t000001ffffffffff\nSeccomp:\t0\n"));
        assert!(!is_privileged("CapEff:\t000001ffffffffff\nSeccomp:\t2\n"));
        assert!(!is_privileged("CapEff:\t00000000a80425fb\nSeccomp:\t0\n"));
        assert!(!is_privileged(""));
    }
}
