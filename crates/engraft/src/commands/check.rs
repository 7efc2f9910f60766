//! `engraft check`: a dry run, which says what would keep a patch from being applied to a process.
//! No thread is stopped and nothing is written. Every problem is reported, not only the first.
//!
//! Not seen are threads that would block the change at its moment, and memory policies
//! (`PR_SET_MDWE`, SELinux), which the kernel does not show.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use engraft_abi::Outcome;
use engraft_patch::Patch;
use engraft_process::{
    Maps, MemoryError, ModuleError, Modules, Obstacles, Process, RemoteCallError, StopError,
    may_suspend_filters,
};

use crate::agent::inject::Injection;
use crate::agent::payload;
use crate::agent::running::RunningAgent;
use crate::agent::snapshot::{PatchPhase, PatchStatus};
use crate::backoff::Backoff;
use crate::commands::module_check::ModuleCheck;
use crate::commands::objects::{ObjectPresence, check_presence, find_objects, wrong_build_id};
use crate::commands::status::{Status, status};
use crate::contexts::stack_switchers;
use crate::error::Error;

/// How often a process is checked, at most, until no library comes or goes during two checks.
const MOST_CHECKS: usize = 20;

/// How often it is checked, at least, however little time there is.
const FEWEST_CHECKS: usize = 3;

/// What a dry run has found.
#[derive(Debug, Default)]
pub struct Checked {
    /// Why `apply` would fail, in the order in which it would find the reasons.
    pub problems: Vec<Error>,
    /// What may keep `apply` from succeeding, in words.
    pub doubts: Vec<String>,
    /// Which objects are loaded. The patch would wait for the others.
    pub presence: ObjectPresence,
    /// Whether the patch is enabled already, so that `apply` would do nothing.
    pub already: bool,
}

/// Checks a process as `apply` would, and changes nothing. Checks again while libraries come and
/// go, up to `timeout`.
///
/// # Errors
/// If the process cannot be checked; [`Error::LoaderBusy`] if libraries come and go all the time.
/// What would keep the patch from being applied is no error of this function, but among the
/// problems.
pub fn check(process: &Process, patch: &Patch, timeout: Duration) -> Result<Checked, Error> {
    let backoff = Backoff::of(process, timeout);
    let pid = process.pid();
    let mut last = None;
    let mut checks = 0;
    loop {
        checks += 1;
        let (modules, others) = find_objects(process, patch, &backoff)?;
        let mut checked = Checked::default();
        let others = others.into_iter();
        checked
            .problems
            .extend(others.map(|(object, found)| wrong_build_id(process, object, found)));
        let done = checked.run(process, patch, &modules);
        let is_current = modules.are_current(process);
        let words: Vec<_> = checked.problems.iter().map(ToString::to_string).collect();
        let is_confirmed = words.is_empty() || last.as_ref() == Some(&words);
        let waited = backoff.wait_briefly();
        let is_over = checks >= MOST_CHECKS || checks >= FEWEST_CHECKS && waited.is_err();
        match done {
            Ok(()) if is_current && is_confirmed => return Ok(checked),
            Ok(()) if is_over && words.is_empty() => {
                let doubt =
                    "libraries came and went all the while, which may have hidden something";
                checked.doubts.push(doubt.to_owned());
                return Ok(checked);
            }
            // If a library came or went meanwhile, another check is needed; and two have to agree
            // on a problem.
            Ok(()) if is_current && !is_over => last = Some(words),
            Err(error) if !is_unmapped(&error) => return Err(error),
            Ok(()) | Err(_) if !is_over => {}
            Ok(()) | Err(_) => return Err(Error::LoaderBusy { pid, timeout }),
        }
    }
}

/// Whether a library was unloaded while it was read.
fn is_unmapped(error: &Error) -> bool {
    matches!(
        error,
        Error::Memory(MemoryError::Unmapped { .. })
            | Error::Modules(ModuleError::Memory(MemoryError::Unmapped { .. }))
    )
}

impl Checked {
    fn run(&mut self, process: &Process, patch: &Patch, modules: &Modules) -> Result<(), Error> {
        self.presence = ObjectPresence::of_patch(patch, modules);
        let maps = process.maps()?;
        let unpresenceable = check_presence(process, patch, modules).err();
        let too_large = payload::encode(patch).err().map(Error::from);
        self.problems
            .extend(unpresenceable.into_iter().chain(too_large));
        let status = self.agent(process, modules, &maps);
        self.obstacles(process)?;
        let switchers = stack_switchers(process)?;
        let switchers: Vec<String> = switchers.iter().map(ToString::to_string).collect();
        if !switchers.is_empty() {
            self.doubts.push(format!(
                "it switches stacks, by {}: no thread will switch while a context is suspended in old code",
                switchers.join(", ")
            ));
        }
        let patches = status.as_ref().map_or(&[][..], |status| &status.patches);
        let is_same = |it: &PatchStatus| it.name == patch.name && it.state != PatchPhase::Disabled;
        self.already = patches.iter().any(is_same);
        if self.already {
            return Ok(());
        }
        for object in &patch.objects {
            for module in modules.with_build_id(&object.build_id) {
                let check = ModuleCheck {
                    process,
                    modules,
                    object,
                    module,
                    patches,
                };
                self.problems.extend(check.run(&maps)?);
            }
        }
        self.remove_duplicates();
        Ok(())
    }

    /// A library that is loaded in several namespaces has the same problems in each.
    fn remove_duplicates(&mut self) {
        let mut known = HashSet::new();
        self.problems
            .retain(|problem| known.insert(problem.to_string()));
    }

    /// Checks the agent that is there, or the room for one.
    fn agent(&mut self, process: &Process, modules: &Modules, maps: &Maps) -> Option<Status> {
        let pid = process.pid();
        match RunningAgent::find(process) {
            Err(error) => self.problems.push(error),
            Ok(None) => {
                let injection = Injection::plan(process, modules);
                let possible = injection.and_then(|injection| injection.has_room(pid, maps));
                self.problems.extend(possible.err());
            }
            Ok(Some(_)) => match status(process) {
                Err(error) => self.problems.push(error),
                Ok(status) => {
                    if status.agent.as_ref().is_some_and(|agent| agent.broken) {
                        let text = "the agent found its own state damaged".to_owned();
                        self.problems.push(Error::Agent {
                            pid,
                            outcome: Outcome::Broken,
                            text,
                        });
                    }
                    return Some(status);
                }
            },
        }
        None
    }

    /// Checks whether the process can be stopped and called.
    fn obstacles(&mut self, process: &Process) -> Result<(), Error> {
        let pid = process.pid();
        let system = |operation| {
            move |source: io::Error| StopError::System {
                pid,
                operation,
                source,
            }
        };
        let obstacles = process.obstacles().map_err(system("list the threads"))?;
        let Obstacles {
            tracer,
            core_dumping,
            uninterruptible,
            seccomp,
            unconfined,
        } = obstacles;
        let tracer = tracer.map(|tracer| StopError::AlreadyTraced { pid, tracer });
        self.problems.extend(tracer.map(Error::from));
        if core_dumping {
            self.problems.push(StopError::CoreDumping { pid }.into());
        }
        if let Some(group) = process.frozen_by() {
            self.problems.push(StopError::Frozen { pid, group }.into());
        } else if let Some(tid) = uninterruptible {
            self.doubts.push(format!(
                "thread {tid} is in an uninterruptible sleep: if that lasts, the process cannot be stopped"
            ));
        }
        // Calls need one thread without a filter, or a filter that may be suspended.
        if let Some((tid, _)) = seccomp.first()
            && unconfined == 0
            && !may_suspend_filters()
        {
            let error = RemoteCallError::Seccomp { tid: *tid };
            self.problems.push(error.into());
        }
        Ok(())
    }
}
