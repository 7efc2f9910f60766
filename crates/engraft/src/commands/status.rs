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
use crate::modules::stable::certain;
use crate::transition::blockers::Blocker;

/// How long a status may take to find a moment at which no library comes or goes.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

/// The patches of one process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The process.
    pub pid: i32,
    /// `None` if no patch was ever applied to it.
    pub agent: Option<AgentStatus>,
    /// In the order in which they were enabled; behind them, those that are disabled.
    pub patches: Vec<PatchStatus>,
    /// The transition that is on.
    pub transition: Option<TransitionStatus>,
    /// What exceptions and cancelled threads use to find their way through frames, as far as it is known.
    pub unwinders: Vec<UnwinderStatus>,
    /// What switches stacks in the process, if [`crate::stack_switchers`] was asked: contexts may be suspended on no
    /// thread's stack.
    pub switchers: Vec<StackSwitcher>,
}

/// A transition: the patch's state says where it leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TransitionStatus {
    /// How many threads, told apart by their thread pointers, have yet to switch.
    pub waiting: usize,
    /// Whether threads were let go at all; if not, the engraft that began it has died, and everybody is where
    /// they were.
    pub started: bool,
    /// For how many seconds it has been on, or on its way back; `None` if that is not known.
    pub seconds: Option<u64>,
    /// The threads that have yet to switch, and why; see [`crate::blockers`].
    pub threads: Vec<Blocker>,
}

/// The runtime inside the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AgentStatus {
    /// Version of its interface.
    pub version: u64,
    /// Memory that it and all patches keep in use, in bytes (resident pages).
    pub memory_bytes: u64,
    /// It found its own state damaged and refuses all changes.
    pub broken: bool,
    /// How many loads of libraries it has let in since, without looking what they brought.
    pub loads_since_broken: u64,
}

/// Reads the status of a process.
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
pub fn find_other_builds(process: &Process, status: &mut Status) -> Result<(), Error> {
    let backoff = Backoff::after(LOOK_TIMEOUT);
    let patches = status.patches.iter_mut();
    let enabled = patches.filter(|patch| patch.state != PatchPhase::Disabled);
    let mut objects: Vec<&mut ObjectStatus> = enabled.flat_map(|it| &mut it.objects).collect();
    if objects.is_empty() {
        return Ok(());
    }
    let (_, found) = certain(process, &backoff, |modules| {
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
