//! Renders the agent's state as a snapshot, which a controller reads from outside.

use alloc::vec::Vec;
use core::sync::atomic::AtomicU64;

use engraft_abi::{
    BuildIdBytes, FlatWriter, SnapshotFunction, SnapshotHeader, SnapshotInstance, SnapshotObject,
    SnapshotPatch, SnapshotTransition, SnapshotUnwinder, SnapshotWaiting, Table, flags,
    patch_state,
};
use engraft_core::{Livepatch, ObjectId, Patch, PatchId, PatchState, Transition};
use zerocopy::FromZeros;

use crate::model::host::Host;
use crate::patch::dispatch;
use crate::patch::image::Image;
use crate::patch::payloads::PayloadView;
use crate::system::failure::Failure;
use crate::unwind::unwinders::State;

fn push<T>(list: &mut Vec<T>, item: T) -> Result<(), Failure> {
    list.try_reserve(1).map_err(|_| Failure::out_of_memory())?;
    list.push(item);
    Ok(())
}

fn word_address(word: &AtomicU64) -> u64 {
    core::ptr::from_ref(word).expose_provenance() as u64
}

/// The state of all patches as one buffer.
pub(crate) fn render(core: &Livepatch, host: &Host) -> Result<Vec<u8>, Failure> {
    let mut writer = FlatWriter::with_header::<SnapshotHeader>();
    let mut header = SnapshotHeader::new_zeroed();
    let mut patches = Vec::new();
    for patch in core.patches() {
        let state = state(core, patch);
        let rendered = render_patch(&mut writer, core, host, (patch.id(), patch.name(), state))?;
        push(&mut patches, rendered)?;
    }
    for payload in host.disabled(core) {
        let known = (payload.patch(), payload.name(), patch_state::DISABLED);
        push(&mut patches, render_patch(&mut writer, core, host, known)?)?;
    }
    header.patches = writer.table(&patches);
    header.prepared = core.prepared().map_or(0, |patch| patch.id().0.into());
    if let Some(transition) = core.transition() {
        header.transition = render_transition(&mut writer, transition)?;
    }
    header.unwinders = render_unwinders(&mut writer, core, host)?;
    header.length = writer.length();
    // The agent's heap is smaller than the largest buffer.
    writer.finish(&header).map_err(|_| Failure::out_of_memory())
}

fn render_transition(
    writer: &mut FlatWriter,
    transition: &Transition,
) -> Result<SnapshotTransition, Failure> {
    let mut waiting = Vec::new();
    for thread in transition.waiting() {
        let waiting_thread = SnapshotWaiting {
            thread: thread.0,
            state: dispatch::thread_word(thread).map_or(0, word_address),
        };
        push(&mut waiting, waiting_thread)?;
    }
    Ok(SnapshotTransition {
        patch: transition.patch().0.into(),
        to_patched: (transition.target() == PatchState::Patched).into(),
        started: transition.is_started().into(),
        canceled: transition.is_canceled().into(),
        others: word_address(dispatch::others_word()),
        waiting: writer.table(&waiting),
    })
}

fn render_unwinders(
    writer: &mut FlatWriter,
    core: &Livepatch,
    host: &Host,
) -> Result<Table, Failure> {
    let mut unwinders = Vec::new();
    for unwinder in host.unwinders.iter() {
        let path = host
            .modules
            .get(unwinder.module)
            .map(|it| it.path.as_slice());
        let (failure, code) = match &unwinder.state {
            State::Ready { site, image } => {
                let is_missing = site.is_original() && !core.patches().is_empty();
                let failure: &[u8] = match is_missing {
                    true => b"the jump in its _Unwind_Find_FDE could not be written",
                    false => b"",
                };
                (failure, image.code())
            }
            State::Failed(failure) => (failure.words(), 0..0),
        };
        let unwinder = SnapshotUnwinder {
            path: writer.bytes(path.unwrap_or_default()),
            failure: writer.bytes(failure),
            code: code.start,
            code_length: code.end - code.start,
        };
        push(&mut unwinders, unwinder)?;
    }
    Ok(writer.table(&unwinders))
}

fn render_patch(
    writer: &mut FlatWriter,
    core: &Livepatch,
    host: &Host,
    (patch, name, state): (PatchId, &[u8], u64),
) -> Result<SnapshotPatch, Failure> {
    let mut objects = Vec::new();
    let mut partial = false;
    for object in 0.. {
        let id = ObjectId { patch, object };
        let Some(view) = host.payloads.view(id) else {
            break;
        };
        partial |= view.object.flags & flags::PARTIAL != 0;
        push(&mut objects, render_object(writer, core, host, id, view)?)?;
    }
    Ok(SnapshotPatch {
        number: patch.0.into(),
        name: writer.bytes(name),
        state,
        partial: partial.into(),
        objects: writer.table(&objects),
    })
}

/// One of [`patch_state`].
fn state(core: &Livepatch, patch: &Patch) -> u64 {
    let transition = core
        .transition()
        .filter(|transition| transition.patch() == patch.id());
    match transition.map(|transition| transition.target()) {
        Some(PatchState::Patched) => patch_state::ENABLING,
        Some(PatchState::Unpatched) => patch_state::DISABLING,
        None if patch.is_enabled() => patch_state::ENABLED,
        None => patch_state::DISABLED,
    }
}

fn render_object(
    writer: &mut FlatWriter,
    core: &Livepatch,
    host: &Host,
    id: ObjectId,
    view: PayloadView<'_>,
) -> Result<SnapshotObject, Failure> {
    let mut functions = Vec::new();
    for function in view.functions() {
        let address = view.entry(function).map_or(0, |entry| entry.0);
        let name = writer.bytes(view.name(function));
        push(&mut functions, SnapshotFunction { name, address })?;
    }
    let mut instances = Vec::new();
    let bound = |module: &&engraft_core::Module| {
        module.bindings().iter().any(|binding| binding.object == id)
    };
    for module in core.modules().iter().filter(bound) {
        let Some(loaded) = host.modules.get(module.id()) else {
            continue;
        };
        let image = host.image(id, module.id());
        let instance = SnapshotInstance {
            load_bias: loaded.elf.load_bias,
            path: writer.bytes(&loaded.path),
            image: image.map_or(0, |image| image.base),
            image_length: image.map_or(0, Image::length),
            code_length: image.map_or(0, |image| image.code().end - image.base),
            unwind: image.map_or(0, |image| image.base + view.object.unwind_offset),
            unwind_length: image.map_or(0, |_| view.object.unwind_size),
        };
        push(&mut instances, instance)?;
    }
    let BuildIdBytes { bytes, length } = view.object.build_id;
    Ok(SnapshotObject {
        build_id: BuildIdBytes { bytes, length },
        file_name: writer.bytes(view.object.file_name.of(view.buffer).unwrap_or_default()),
        functions: writer.table(&functions),
        instances: writer.table(&instances),
    })
}
