//! What limits a process from outside: its control group's freezer, its limit of address space.

use std::fs;

use crate::process::handle::Process;

impl Process {
    /// The control group (version 1) that keeps the process frozen, if there is one: none of its
    /// threads runs or can be stopped until the group is thawed. Threads that a control group of
    /// version 2 has frozen can be stopped.
    pub fn frozen_by(&self) -> Option<String> {
        let groups = fs::read_to_string(format!("/proc/{}/cgroup", self.pid())).ok()?;
        // number:controllers:path
        let mut lines = groups.lines().map(|line| line.splitn(3, ':').skip(1));
        let path = lines.find_map(|mut fields| {
            let (controllers, path) = (fields.next()?, fields.next()?);
            let mut controllers = controllers.split(',');
            controllers.any(|it| it == "freezer").then_some(path)
        })?;
        let state = fs::read_to_string(format!("/sys/fs/cgroup/freezer{path}/freezer.state"));
        state
            .is_ok_and(|state| state.trim() != "THAWED")
            .then(|| path.to_owned())
    }

    /// The limit of the process's address space in bytes (`RLIMIT_AS`); `None` if there is none.
    pub fn address_space_limit(&self) -> Option<u64> {
        let limits = fs::read_to_string(format!("/proc/{}/limits", self.pid())).ok()?;
        let mut lines = limits.lines();
        let limit = lines.find_map(|line| line.strip_prefix("Max address space"))?;
        limit.split_ascii_whitespace().next()?.parse().ok()
    }
}
