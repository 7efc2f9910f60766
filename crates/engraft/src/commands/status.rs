//! `engraft status`: the patches of a process. Read from outside; no thread is stopped.

use std::time::Duration;

use engraft_process::Process;
use serde::Serialize;

use crate::agent::running::RunningAgent;
use crate::agent::snapshot::{ObjectStatus, PatchPhase, PatchStatus, Snapshot, UnwinderStatus};
use crate::backoff::Backoff;
use crate::contexts::StackSwitcher;
use crate::error::Error;
use crate::modules::other_builds::other_builds;
use crate::modules::stable::confirmed;
use crate::transition::blockers::Blocker;

/// How long to look for a moment at which no library comes or goes.
const STABLE_TIMEOUT: Duration = Duration::from_secs(1);

/// The patches of one process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The process.
    pub pid: i32,
    /// `None` if no patch was ever applied to it.
    pub agent: Option<AgentStatus>,
    /// In the order in which they were enabled; disabled patches come last.
    pub patches: Vec<PatchStatus>,
    /// The open transition.
    pub transition: Option<TransitionStatus>,
    /// The unwinders, which exceptions and cancelled threads use, as far as they are known.
    pub unwinders: Vec<UnwinderStatus>,
    /// How the process switches stacks. Empty until the result of [`crate::stack_switchers`] is put
    /// here.
    pub switchers: Vec<StackSwitcher>,
}

/// An open transition. The state of its patch says in which direction it leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TransitionStatus {
    /// How many threads have yet to switch. Threads with the same thread pointer count as one.
    pub waiting: usize,
    /// Whether it was started. If not, the controller that began it has died, and no thread has
    /// switched.
    pub started: bool,
    /// How many seconds ago it began or was reversed; `None` if that is not known.
    pub seconds: Option<u64>,
    /// The threads that have yet to switch, and why. Empty until the result of [`crate::blockers`]
    /// is put here.
    pub threads: Vec<Blocker>,
}

/// The agent of the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AgentStatus {
    /// Version of its interface.
    pub version: u64,
    /// Resident memory of the agent and all patches, in bytes.
    pub memory_bytes: u64,
    /// Whether it found its own state damaged. Then it refuses all changes.
    pub broken: bool,
    /// How many libraries were loaded since then without being checked for what the patches change.
    pub loads_since_broken: u64,
}

/// Reads the status of a process.
///
/// # Errors
/// If the memory of the process cannot be read, or the agent is of another version or contradicts
/// itself.
pub fn status(process: &Process) -> Result<Status, Error> {
    let pid = process.pid();
    let Some(running) = RunningAgent::find(process)? else {
        return Ok(Status {
            pid,
            agent: None,
            patches: Vec::new(),
            transition: None,
            unwinders: Vec::new(),
            switchers: Vec::new(),
        });
    };
    let snapshot = Snapshot::read(&running)?;
    let (broken, loads_since_broken) = running.damage()?;
    let agent = AgentStatus {
        version: engraft_abi::VERSION,
        memory_bytes: running.resident_memory(snapshot.images(None))?,
        broken,
        loads_since_broken,
    };
    let since = running.time_since_begin()?;
    let transition = snapshot.transition.map(|transition| TransitionStatus {
        waiting: transition.pending.len(),
        started: transition.started,
        seconds: since.map(|since| since.as_secs()),
        threads: Vec::new(),
    });
    Ok(Status {
        pid,
        agent: Some(agent),
        patches: snapshot.patches,
        transition,
        unwinders: snapshot.unwinders,
        switchers: Vec::new(),
    })
}

/// Adds to the status of a process the modules that are other builds of what its patches change.
///
/// # Errors
/// [`Error::LoaderBusy`] if libraries come and go all the time.
pub fn find_other_builds(process: &Process, status: &mut Status) -> Result<(), Error> {
    let backoff = Backoff::after(STABLE_TIMEOUT);
    let patches = status.patches.iter_mut();
    let enabled = patches.filter(|patch| patch.state != PatchPhase::Disabled);
    let mut objects: Vec<&mut ObjectStatus> = enabled.flat_map(|it| &mut it.objects).collect();
    if objects.is_empty() {
        return Ok(());
    }
    let (_, found) = confirmed(process, &backoff, |modules| {
        let numbered = objects.iter().enumerate();
        let found = numbered.flat_map(|(number, object)| {
            let others = other_builds(process, modules, &object.file_name, &object.build_id);
            others.into_iter().map(move |other| (number, other))
        });
        found.collect()
    })?;
    for (number, other) in found {
        if let Some(object) = objects.get_mut(number) {
            object.other_builds.push(other);
        }
    }
    Ok(())
}
