//! Selecting the processes that a command is for, without disturbing any process.

use std::path::Path;

use engraft_patch::Patch;
use engraft_process::{Executable, OpenError, Process, all_processes, limits, may_trace_others};

use super::objects::is_loaded;
use super::status::status;
use crate::agent::running::RunningAgent;
use crate::agent::snapshot::PatchPhase;
use crate::error::{Error, exit_code};

/// The processes that a command selects.
#[derive(Debug, Default)]
pub struct Selected {
    /// The selected processes, in the order of their pids.
    pub processes: Vec<Process>,
    /// Processes that could not be read, and might have been selected.
    pub hidden: Vec<(i32, Error)>,
    /// Processes that this user can never read, although it may trace the processes of others: they
    /// have capabilities that it does not have, like the first process, seen from a container.
    pub out_of_reach: Vec<i32>,
}

impl Selected {
    /// All processes for which `is_selected` says so. A process that ends meanwhile is not
    /// selected, nor are kernel threads, programs of another architecture, and this command itself.
    fn find(is_selected: impl Fn(&Process) -> Result<bool, Error>) -> Result<Self, Error> {
        let may_trace = may_trace_others();
        let mut selected = Self::default();
        let pids = all_processes().map_err(|source| Error::ReadFile {
            path: "/proc".into(),
            source,
        })?;
        for pid in pids {
            let found = match Process::open(pid) {
                Ok(process) => {
                    process.limit_time(limits::LOOK_TIME);
                    is_selected(&process).map(|selected| selected.then_some(process))
                }
                Err(
                    error @ (OpenError::PermissionDenied { .. }
                    | OpenError::Starting { .. }
                    | OpenError::System { .. }),
                ) => Err(error.into()),
                Err(_) => Ok(None),
            };
            match found {
                Ok(process) => selected.processes.extend(process),
                Err(error) if error.exit_code() == exit_code::NO_SUCH_PROCESS => {}
                Err(Error::Open(OpenError::PermissionDenied { .. })) if may_trace => {
                    selected.out_of_reach.push(pid);
                }
                Err(error) => selected.hidden.push((pid, error)),
            }
        }
        Ok(selected)
    }

    /// Every process that has loaded an object of the patch, by build-id from its memory.
    ///
    /// # Errors
    /// If `/proc` cannot be read. A process that cannot be read is among the hidden ones.
    pub fn with_object_of(patch: &Patch) -> Result<Self, Error> {
        Self::find(|process| {
            let modules = process.modules()?;
            let mut objects = patch.objects.iter();
            Ok(objects.any(|object| is_loaded(&modules, object)))
        })
    }

    /// Every process that runs the file; see [`Executable::is_run_by`].
    ///
    /// # Errors
    /// If the path or `/proc` cannot be read.
    pub fn running(file: &Path) -> Result<Self, Error> {
        let file = Executable::new(file)?;
        Self::find(|process| Ok(file.is_run_by(process)?))
    }

    /// Every process that has the patch, enabled or disabled.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub fn with_patch(name: &str) -> Result<Self, Error> {
        Self::find(|process| {
            Ok(status(process)?
                .patches
                .iter()
                .any(|patch| patch.name == name))
        })
    }

    /// Every process in which the patch is not disabled.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub fn with_enabled_patch(name: &str) -> Result<Self, Error> {
        Self::find(|process| {
            let patches = status(process)?.patches;
            let mut enabled = patches.iter().filter(|it| it.state != PatchPhase::Disabled);
            Ok(enabled.any(|patch| patch.name == name))
        })
    }

    /// Every process with an open transition; with a name, only if the transition is of that patch.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub fn in_transition(name: Option<&str>) -> Result<Self, Error> {
        let moving = |state| matches!(state, PatchPhase::Enabling | PatchPhase::Disabling);
        Self::find(|process| {
            let patches = status(process)?.patches;
            let mut patches = patches.iter().filter(|it| moving(it.state));
            Ok(patches.any(|patch| name.is_none_or(|name| patch.name == name)))
        })
    }

    /// Every process that has an agent.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub fn with_agent() -> Result<Self, Error> {
        Self::find(|process| match RunningAgent::find(process) {
            // The command itself will report the version.
            Err(Error::AgentVersion { .. }) => Ok(true),
            found => Ok(found?.is_some()),
        })
    }
}
