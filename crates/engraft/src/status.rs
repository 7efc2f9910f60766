//! What the agent of a process says about its patches. Read from outside; nobody is stopped.

use engraft_abi::{
    Bytes, SnapshotFunction, SnapshotHeader, SnapshotInstance, SnapshotObject, SnapshotPatch,
    patch_state,
};
use engraft_process::Process;
use serde::Serialize;
use zerocopy::FromBytes;

use crate::agent::RunningAgent;
use crate::error::Error;

/// The patches of one process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The process.
    pub pid: i32,
    /// `None` if no patch was ever applied to it.
    pub agent: Option<AgentStatus>,
    /// In the order in which they were enabled; behind them, those that are disabled.
    pub patches: Vec<PatchStatus>,
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
}

/// One patch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PatchStatus {
    /// Its name.
    pub name: String,
    /// Place in the order of enabling, from 1; `None` while it is disabled.
    pub order: Option<usize>,
    /// Where it is in its life.
    pub state: PatchState,
    /// What it changes.
    pub objects: Vec<ObjectStatus>,
}

/// Where a patch is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PatchState {
    /// Not in effect.
    Disabled,
    /// In effect.
    Enabled,
    /// Some threads still run what was before.
    Enabling,
    /// Some threads still run what the patch brought.
    Disabling,
}

/// One object of a patch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ObjectStatus {
    /// Which one, in hexadecimal digits.
    pub build_id: String,
    /// Its file name when the patch was built.
    pub file_name: String,
    /// The functions that get new code.
    pub functions: Vec<String>,
    /// The loaded modules that are this object; empty while it is not loaded.
    pub modules: Vec<ModuleStatus>,
}

/// One module that is an object of a patch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModuleStatus {
    /// The loader's name of it; empty for the main program.
    pub path: String,
    /// Whether the patch is in effect in it.
    pub patched: bool,
}

/// Reads the status of a process.
pub fn status(process: &Process) -> Result<Status, Error> {
    let pid = process.pid();
    let Some(agent) = RunningAgent::find(process)? else {
        return Ok(Status {
            pid,
            agent: None,
            patches: Vec::new(),
        });
    };
    let snapshot = agent.read_snapshot()?;
    let (broken, patches) = decode(&snapshot).ok_or(Error::BadSnapshot { pid })?;
    let agent = AgentStatus {
        version: engraft_abi::VERSION,
        memory_bytes: agent.resident_memory()?,
        broken,
    };
    Ok(Status {
        pid,
        agent: Some(agent),
        patches,
    })
}

/// The agent's records; `None` if they contradict themselves.
fn decode(snapshot: &[u64]) -> Option<(bool, Vec<PatchStatus>)> {
    let buffer = zerocopy::IntoBytes::as_bytes(snapshot);
    let (header, _) = SnapshotHeader::ref_from_prefix(buffer).ok()?;
    let patches = header.patches.of::<SnapshotPatch>(buffer)?;
    let patches: Option<Vec<_>> = patches
        .iter()
        .zip(1..)
        .map(|(patch, order)| decode_patch(buffer, patch, order))
        .collect();
    Some((header.broken != 0, patches?))
}

fn decode_patch(buffer: &[u8], patch: &SnapshotPatch, order: usize) -> Option<PatchStatus> {
    let objects = patch.objects.of::<SnapshotObject>(buffer)?;
    let state = match patch.state {
        patch_state::DISABLED => PatchState::Disabled,
        patch_state::ENABLED => PatchState::Enabled,
        patch_state::ENABLING => PatchState::Enabling,
        patch_state::DISABLING => PatchState::Disabling,
        _ => return None,
    };
    Some(PatchStatus {
        name: text(buffer, patch.name)?,
        order: (state != PatchState::Disabled).then_some(order),
        state,
        objects: objects
            .iter()
            .map(|object| decode_object(buffer, object))
            .collect::<Option<_>>()?,
    })
}

fn decode_object(buffer: &[u8], object: &SnapshotObject) -> Option<ObjectStatus> {
    let build_id = object
        .build_id
        .bytes
        .get(..usize::try_from(object.build_id.length).ok()?)?;
    let functions = object.functions.of::<SnapshotFunction>(buffer)?;
    let instances = object.instances.of::<SnapshotInstance>(buffer)?;
    Some(ObjectStatus {
        build_id: build_id.iter().map(|byte| format!("{byte:02x}")).collect(),
        file_name: text(buffer, object.file_name)?,
        functions: functions
            .iter()
            .map(|function| text(buffer, function.name))
            .collect::<Option<_>>()?,
        modules: instances
            .iter()
            .map(|instance| {
                let patched = instance.image != 0;
                Some(ModuleStatus {
                    path: text(buffer, instance.path)?,
                    patched,
                })
            })
            .collect::<Option<_>>()?,
    })
}

fn text(buffer: &[u8], bytes: Bytes) -> Option<String> {
    bytes
        .of(buffer)
        .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}
