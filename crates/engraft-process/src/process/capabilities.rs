//! The capabilities of the command itself.

/// `CAP_SYS_PTRACE`, by its number in `linux/capability.h`.
const SYS_PTRACE: u32 = 19;

/// Whether this command may trace the processes of other users, except those with capabilities that
/// it does not have.
pub fn may_trace_others() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut lines = status.lines();
    let effective = lines.find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|it| u64::from_str_radix(it.trim(), 16).ok());
    effective.is_some_and(|capabilities| capabilities & (1 << SYS_PTRACE) != 0)
}
