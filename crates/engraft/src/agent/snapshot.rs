//! The agent's snapshot of its own state, decoded. Read from outside; no thread is stopped.

use std::cell::Cell;
use std::ops::Range;

use engraft_abi::{
    Bytes, SnapshotFunction, SnapshotHeader, SnapshotInstance, SnapshotObject, SnapshotPatch,
    SnapshotUnwinder, SnapshotWaiting, Table, patch_state,
};
use engraft_process::foreign::escape_bytes;
use engraft_process::{TargetAddress, limits};
use serde::Serialize;
use zerocopy::{FromBytes, Immutable};

use crate::agent::running::RunningAgent;
use crate::agent::state_words::{PendingThread, StateWords};
use crate::error::Error;
use crate::modules::other_builds::OtherBuild;

/// An unwinder in the process, which exceptions and cancelled threads use: libgcc's, as a library
/// or linked into the program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnwinderStatus {
    /// The loader's name of the module; empty for the main program.
    pub path: String,
    /// Why it cannot unwind new code; `None` if it can.
    pub failure: Option<String>,
    /// The code that leads its calls to the agent.
    #[serde(skip)]
    pub(crate) code: Range<TargetAddress>,
}

/// One patch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PatchStatus {
    /// Its number in the agent.
    #[serde(skip)]
    pub(crate) number: u64,
    /// Its name.
    pub name: String,
    /// Place in the order of enabling, from 1; `None` while it is disabled.
    pub order: Option<usize>,
    /// Whether it is in effect.
    pub state: PatchPhase,
    /// Whether it is only a part of its fix (`engraft build --partial`).
    pub partial: bool,
    /// The objects that it changes.
    pub objects: Vec<ObjectStatus>,
}

/// Whether a patch is in effect. (The kernel's `patch->enabled` and `patch->transition` in one.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PatchPhase {
    /// Not in effect.
    Disabled,
    /// In effect.
    Enabled,
    /// It is being enabled: some threads have yet to switch to it.
    Enabling,
    /// It is being disabled: some threads have yet to switch back.
    Disabling,
}

/// One object of a patch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ObjectStatus {
    /// Its build-id in hexadecimal digits.
    pub build_id: String,
    /// Its file name when the patch was built.
    pub file_name: String,
    /// The functions that get new code.
    pub functions: Vec<String>,
    /// The loaded modules that are this object; empty while it is not loaded.
    pub modules: Vec<ModuleStatus>,
    /// The loaded modules that are other builds of it, which the patch does not fit. Empty until
    /// [`crate::find_other_builds`] has looked for them.
    pub other_builds: Vec<OtherBuild>,
}

/// One module that is an object of a patch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModuleStatus {
    /// The loader's name of it; empty for the main program.
    pub path: String,
    /// Whether the patch is in effect in this module.
    pub patched: bool,
    /// The patch's image for it.
    #[serde(skip)]
    pub(crate) image: Option<ImageStatus>,
}

/// The new code and data of a patch in a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageStatus {
    pub(crate) range: Range<TargetAddress>,
    /// The part that is code, and the call frame information for it, if there is any.
    pub(crate) code: Range<TargetAddress>,
    pub(crate) unwind: Option<Range<TargetAddress>>,
}

/// Everything that the agent says.
#[derive(Default)]
pub(crate) struct Snapshot {
    pub(crate) patches: Vec<PatchStatus>,
    /// The number of the patch that is prepared, if one is.
    pub(crate) prepared: Option<u64>,
    pub(crate) transition: Option<OpenTransition>,
    pub(crate) unwinders: Vec<UnwinderStatus>,
}

/// A transition that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpenTransition {
    /// The patch's number.
    pub(crate) number: u64,
    /// The patch's name.
    pub(crate) name: String,
    pub(crate) to_patched: bool,
    /// Whether the agent has started it. If not, no thread has switched.
    pub(crate) started: bool,
    /// Whether it only undoes a change that failed.
    pub(crate) canceled: bool,
    /// Thread pointers of the threads that have yet to switch.
    pub(crate) pending: Vec<u64>,
    /// Those of them that have a door: they switch by themselves as soon as they have left.
    pub(crate) with_door: Vec<u64>,
    /// The words that change when a thread switches.
    pub(crate) words: StateWords,
}

impl OpenTransition {
    /// Whether the thread with this thread pointer has a door.
    pub(crate) fn has_door(&self, pointer: u64) -> bool {
        self.with_door.contains(&pointer)
    }

    fn set_pending(&mut self, pending: &[PendingThread]) {
        self.pending = pending.iter().map(|it| it.pointer).collect();
        let with_door = pending.iter().filter(|it| it.has_door);
        self.with_door = with_door.map(|it| it.pointer).collect();
    }
}

impl Snapshot {
    /// The images of all patches, or of the one with this number.
    pub(crate) fn images(&self, number: Option<u64>) -> impl Iterator<Item = &ImageStatus> {
        self.patches
            .iter()
            .filter(move |patch| number.is_none_or(|number| patch.number == number))
            .flat_map(|patch| &patch.objects)
            .flat_map(|object| &object.modules)
            .filter_map(|module| module.image.as_ref())
    }

    /// Reads the snapshot, and which threads are pending at this moment.
    pub(crate) fn read(agent: &RunningAgent) -> Result<Self, Error> {
        let snapshot = agent.read_snapshot()?;
        if snapshot.is_empty() {
            // The agent has not carried out a command yet.
            return Ok(Self::default());
        }
        let buffer = zerocopy::IntoBytes::as_bytes(snapshot.as_slice());
        let mut snapshot = decode(agent, buffer)?;
        if let Some(open) = &mut snapshot.transition {
            let pending = open.words.pending(agent.process())?;
            open.set_pending(&pending);
        }
        Ok(snapshot)
    }
}

/// Decodes the agent's records.
fn decode(agent: &RunningAgent, buffer: &[u8]) -> Result<Snapshot, Error> {
    let reader = Reader::new(agent, buffer);
    let (header, _) = SnapshotHeader::ref_from_prefix(buffer).map_err(|_| reader.senseless())?;
    let records = reader.table::<SnapshotPatch>(header.patches)?;
    let number = header.transition.patch;
    let moving = records.iter().find(|it| number != 0 && it.number == number);
    let transition = match moving {
        Some(patch) => Some(OpenTransition {
            number,
            name: reader.text(patch.name)?,
            to_patched: header.transition.to_patched != 0,
            started: header.transition.started != 0,
            canceled: header.transition.canceled != 0,
            pending: Vec::new(),
            with_door: Vec::new(),
            words: StateWords {
                others: header.transition.others,
                threads: reader
                    .table::<SnapshotWaiting>(header.transition.waiting)?
                    .to_vec(),
            },
        }),
        None => None,
    };
    if let Some(open) = &transition
        && open.words.threads.len() > limits::THREADS
    {
        return Err(agent.over_limit("threads that have yet to switch", limits::THREADS as u64));
    }
    let mut unwinders = Vec::new();
    for unwinder in reader.table::<SnapshotUnwinder>(header.unwinders)? {
        unwinders.push(reader.unwinder(unwinder)?);
    }
    let mut patches = Vec::new();
    for (patch, order) in records.iter().zip(1..) {
        patches.push(reader.patch(patch, order)?);
    }
    Ok(Snapshot {
        patches,
        prepared: (header.prepared != 0).then_some(header.prepared),
        transition,
        unwinders,
    })
}

/// Reads records out of a snapshot. An agent writes each record once, so all that is read is
/// together no longer than the snapshot. This bound matters: tables of a hostile agent may overlap,
/// and would decode to more than fits into memory.
struct Reader<'s> {
    agent: &'s RunningAgent,
    buffer: &'s [u8],
    /// How many bytes may still be read.
    left: Cell<usize>,
    /// How many images may still be read.
    images: Cell<usize>,
}

impl<'s> Reader<'s> {
    fn new(agent: &'s RunningAgent, buffer: &'s [u8]) -> Self {
        Self {
            agent,
            buffer,
            // The name of a patch in transition is read twice.
            left: Cell::new(buffer.len() + limits::TEXT),
            images: Cell::new(limits::IMAGES),
        }
    }

    /// The error that the snapshot contradicts itself.
    fn senseless(&self) -> Error {
        Error::BadSnapshot {
            pid: self.agent.pid(),
        }
    }

    fn take(&self, bytes: usize) -> Result<(), Error> {
        let left = self.left.get().checked_sub(bytes);
        self.left.set(left.ok_or_else(|| self.senseless())?);
        Ok(())
    }

    fn table<T: FromBytes + Immutable>(&self, table: Table) -> Result<&'s [T], Error> {
        let records = table.of::<T>(self.buffer).ok_or_else(|| self.senseless())?;
        self.take(size_of_val(records))?;
        Ok(records)
    }

    /// A text, escaped so that it can be shown.
    fn text(&self, bytes: Bytes) -> Result<String, Error> {
        let text = bytes.of(self.buffer).ok_or_else(|| self.senseless())?;
        self.take(text.len())?;
        match text.len() > limits::TEXT {
            true => Err(self
                .agent
                .over_limit("bytes in one text", limits::TEXT as u64)),
            false => Ok(escape_bytes(text)),
        }
    }

    fn unwinder(&self, unwinder: &SnapshotUnwinder) -> Result<UnwinderStatus, Error> {
        let failure = self.text(unwinder.failure)?;
        Ok(UnwinderStatus {
            path: self.text(unwinder.path)?,
            failure: (!failure.is_empty()).then_some(failure),
            code: range(unwinder.code, unwinder.code_length),
        })
    }

    fn patch(&self, patch: &SnapshotPatch, order: usize) -> Result<PatchStatus, Error> {
        let state = match patch.state {
            patch_state::DISABLED => PatchPhase::Disabled,
            patch_state::ENABLED => PatchPhase::Enabled,
            patch_state::ENABLING => PatchPhase::Enabling,
            patch_state::DISABLING => PatchPhase::Disabling,
            _ => return Err(self.senseless()),
        };
        let mut objects = Vec::new();
        for object in self.table::<SnapshotObject>(patch.objects)? {
            objects.push(self.object(object)?);
        }
        Ok(PatchStatus {
            number: patch.number,
            name: self.text(patch.name)?,
            order: (state != PatchPhase::Disabled).then_some(order),
            state,
            partial: patch.partial != 0,
            objects,
        })
    }

    fn object(&self, object: &SnapshotObject) -> Result<ObjectStatus, Error> {
        let length = usize::try_from(object.build_id.length).unwrap_or(usize::MAX);
        let build_id = object.build_id.bytes.get(..length);
        let build_id = build_id.ok_or_else(|| self.senseless())?;
        let mut functions = Vec::new();
        for function in self.table::<SnapshotFunction>(object.functions)? {
            functions.push(self.text(function.name)?);
        }
        let mut modules = Vec::new();
        for instance in self.table::<SnapshotInstance>(object.instances)? {
            modules.push(self.module(instance)?);
        }
        Ok(ObjectStatus {
            build_id: build_id.iter().map(|byte| format!("{byte:02x}")).collect(),
            file_name: self.text(object.file_name)?,
            functions,
            modules,
            other_builds: Vec::new(),
        })
    }

    fn module(&self, instance: &SnapshotInstance) -> Result<ModuleStatus, Error> {
        let left = self.images.get().checked_sub(1);
        let too_many = || {
            self.agent
                .over_limit("images of patches", limits::IMAGES as u64)
        };
        self.images.set(left.ok_or_else(too_many)?);
        Ok(ModuleStatus {
            path: self.text(instance.path)?,
            patched: instance.image != 0,
            image: (instance.image != 0).then(|| image(instance)),
        })
    }
}

fn image(instance: &SnapshotInstance) -> ImageStatus {
    ImageStatus {
        range: range(instance.image, instance.image_length),
        code: range(instance.image, instance.code_length),
        unwind: (instance.unwind_length != 0)
            .then(|| range(instance.unwind, instance.unwind_length)),
    }
}

fn range(start: u64, length: u64) -> Range<TargetAddress> {
    let start = TargetAddress::new(start);
    start..start + length
}
