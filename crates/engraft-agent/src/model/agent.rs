//! The agent of one process: its state, and the commands that do not belong to a transition.

use alloc::vec::Vec;
use core::mem::offset_of;

use engraft_abi::{CodeRange, Control, LoadedModule, Outcome, Table};
use engraft_core::{
    BuildId, Callbacks, Error, Livepatch, ObjectDefinition, PatchDefinition, PatchId, PatchState,
    Refusal,
};
use zerocopy::FromBytes;

use crate::loader::broken;
use crate::loader::elf::LoadedElf;
use crate::loader::hook::Hook;
use crate::model::host::Host;
use crate::model::module_registry::ModuleRegistry;
use crate::model::snapshot;
use crate::patch::payloads::Payload;
use crate::system::control::{Answer, ControlBlock};
use crate::system::failure::{Failure, Text};

/// The agent of one process.
pub(crate) struct Agent {
    control: ControlBlock,
    /// The model: all decisions.
    pub core: Livepatch,
    /// What carries its decisions out.
    pub host: Host,
    /// The hook in the loader; `None` while it is not installed.
    pub hook: Option<Hook>,
    attached: bool,
    generation: u64,
    next_patch: u32,
    snapshot: Vec<u8>,
    pub(crate) ranges: Vec<CodeRange>,
    pub(crate) sites: Vec<CodeRange>,
}

impl Agent {
    /// An agent that knows no module and no patch.
    pub(crate) fn new(control: ControlBlock) -> Self {
        let facts = control.read();
        let program = LoadedElf::with_program_headers(
            facts.program_load_bias,
            facts.program_headers,
            facts.program_header_count,
        );
        Self {
            control,
            core: Livepatch::new(),
            host: Host::new(ModuleRegistry::new(program), control),
            hook: None,
            attached: false,
            generation: 0,
            next_patch: 1,
            snapshot: Vec::new(),
            ranges: Vec::new(),
            sites: Vec::new(),
        }
    }

    /// Adopts the modules that the controller has found, and installs the hook in the loader. All
    /// threads are stopped. The loader's own lists are not read: if the controller dies, they may
    /// change meanwhile.
    pub(crate) fn attach(&mut self, list: &[u8]) -> Answer {
        if self.attached {
            return Ok((Outcome::AlreadyThere, 0));
        }
        let facts = self.control.read();
        self.adopt_modules(list)?;
        if facts.debug != 0 {
            let writer = self.host.writer;
            let hook = Hook::install(
                facts.debug,
                facts.unchained,
                facts.signal_error,
                facts.hook,
                writer,
            )?;
            self.hook = Some(hook);
        }
        self.set_attached(true);
        Ok((Outcome::Done, 0))
    }

    /// Replaces the known modules by those in `list`: while the agent was not attached, modules may
    /// have come and gone.
    fn adopt_modules(&mut self, list: &[u8]) -> Result<(), Failure> {
        let (table, _) = Table::read_from_prefix(list).map_err(|_| Failure::bad_payload())?;
        let found = table
            .of::<LoadedModule>(list)
            .ok_or_else(Failure::bad_payload)?;
        self.core = Livepatch::new();
        while let Some(module) = self.host.modules.find_missing(found) {
            self.host.forget_module(module);
        }
        let modules = &mut self.host.modules;
        found
            .iter()
            .try_for_each(|found| modules.adopt(found, list))?;
        modules.set_live();
        for module in modules.iter() {
            if let Some(build_id) = module.build_id {
                let adopted = self.core.adopt_live_module(module.id, build_id);
                adopted.map_err(refusal)?;
            }
        }
        Ok(())
    }

    /// Removes the hook from the loader. All threads are stopped, and there is no patch.
    pub(crate) fn detach(&mut self) -> Answer {
        if !self.core.patches().is_empty() || self.core.prepared().is_some() {
            return Err(Failure::new(Outcome::NotAllowed, b"there are patches"));
        }
        if self.core.forced().next().is_some() {
            let text = b"threads may be inside the code of a patch that was forced out";
            return Err(Failure::new(Outcome::NotAllowed, text));
        }
        self.host
            .unwinders
            .redirect(self.host.writer, false, None)?;
        if let Some(hook) = self.hook.take() {
            let detached = hook.uninstall(self.host.writer);
            if detached.is_err() {
                // The loader still calls it.
                self.hook = Some(hook);
            }
            detached?;
        }
        self.set_attached(false);
        Ok((Outcome::Done, 0))
    }

    /// Detaches, and unmaps what the agent has mapped besides its own mapping. There is no other
    /// controller, and no thread is inside an unwinder's image.
    pub(crate) fn leave(&mut self) -> Answer {
        // So that nothing is written to a libgcc that has been unmapped.
        self.forget_unmapped()?;
        let detached = self.detach()?;
        self.host.unwinders.forget(None)?;
        self.host.payloads.free_all_lent()?;
        Ok(detached)
    }

    /// Notes that modules have come or gone: ranges that were planned before are out of date.
    pub(crate) fn modules_changed(&mut self) {
        self.generation += 1;
        self.control
            .store(offset_of!(Control, generation), self.generation);
    }

    fn set_attached(&mut self, attached: bool) {
        self.attached = attached;
        self.control
            .store(offset_of!(Control, attached), attached.into());
    }

    /// Adds a payload, and prepares its patch for all modules that are alive.
    pub(crate) fn prepare(&mut self, address: u64, length: u64) -> Answer {
        let new = PatchId(self.next_patch);
        self.host.payloads.add(new, address, length)?;
        let payload = self.host.payload(new)?;
        if let Some(known) = self.enabled(payload.name()) {
            self.host.payloads.remove(new)?;
            return Ok((Outcome::AlreadyThere, known.0.into()));
        }
        // A payload with the same content is kept of a disabled patch: its images are used again.
        let patch = match self.host.payloads.same_content(new) {
            Some(known) => {
                self.host.payloads.remove(new)?;
                known
            }
            None => {
                self.next_patch += 1;
                new
            }
        };
        self.host.prepare_unwinders()?;
        let definition = definition(self.host.payload(patch)?)?;
        let prepared = self.core.prepare(&mut self.host, patch, definition);
        prepared.map_err(|error| {
            let failure = self.describe(error);
            self.host.release_payload(patch);
            failure
        })?;
        Ok((Outcome::Done, patch.0.into()))
    }

    /// Forgets a prepared patch.
    pub(crate) fn abandon(&mut self, patch: PatchId) -> Answer {
        self.core.abandon(&mut self.host, patch).map_err(refusal)?;
        Ok((Outcome::Done, patch.0.into()))
    }

    /// The enabled patch of a name.
    pub(crate) fn enabled(&self, name: &[u8]) -> Option<PatchId> {
        let mut patches = self.core.patches().iter();
        let patch = patches.find(|patch| patch.name() == name)?;
        Some(patch.id())
    }

    /// Lists the code that must be clear before threads switch to a patch, or back from it.
    pub(crate) fn plan(&mut self, patch: PatchId, to_patched: bool) -> Answer {
        let target = match to_patched {
            true => PatchState::Patched,
            false => PatchState::Unpatched,
        };
        self.collect_ranges(patch, target)?;
        Ok((Outcome::Done, patch.0.into()))
    }

    /// Collects the code that must be clear before threads can switch to `target`.
    fn collect_ranges(&mut self, patch: PatchId, target: PatchState) -> Result<(), Failure> {
        let (mut ranges, mut sites) = (Vec::new(), Vec::new());
        let host = &self.host;
        let mut result = Ok(());
        let visited = self.core.leaving(patch, target, |leaving| {
            if result.is_ok() {
                let pushed = host.push_ranges(&mut ranges, leaving);
                result = pushed.and_then(|()| host.push_site(&mut sites, leaving, patch));
            }
        });
        visited.map_err(refusal)?;
        // If no code is to be left, no thread can be on its way to some.
        let result = match ranges.is_empty() {
            true => result,
            false => result.and_then(|()| host.push_own_range(&mut ranges)),
        };
        if target == PatchState::Patched {
            self.host.push_unwinder_sites(&mut sites)?;
        }
        (self.ranges, self.sites) = (ranges, sites);
        result
    }

    /// The failure for an error of the core.
    pub(crate) fn describe(&self, error: Error<Failure>) -> Failure {
        match error {
            Error::Refused(reason) => refusal(reason),
            Error::Prepare(_, module, failure) | Error::Site(module, _, failure) => {
                let path = self
                    .host
                    .modules
                    .get(module)
                    .map(|module| module.path.as_slice());
                let path = path
                    .filter(|path| !path.is_empty())
                    .unwrap_or(b"the program");
                let text = Text::EMPTY.push(path).push(b": ").push(failure.words());
                Failure { text, ..failure }
            }
            Error::PrePatch(_, failure) | Error::Threads(_, failure) => failure,
        }
    }

    /// Tells the controller how a command ended. The outcome is for the return register; the rest
    /// is written to the control block.
    pub(crate) fn respond(&mut self, answer: Answer) -> Outcome {
        self.publish();
        let control = self.control;
        control.store(offset_of!(Control, ranges), self.ranges.as_ptr() as u64);
        control.store(offset_of!(Control, range_count), self.ranges.len() as u64);
        control.store(offset_of!(Control, sites), self.sites.as_ptr() as u64);
        control.store(offset_of!(Control, site_count), self.sites.len() as u64);
        control.respond(answer)
    }

    /// Publishes a snapshot of the state. If there is no memory for it, the last one stays.
    pub(crate) fn publish(&mut self) {
        self.core.note_switched(&mut self.host);
        let objects = self.core.patches().iter().flat_map(|patch| patch.objects());
        let modules = self.host.modules.iter();
        broken::note(
            objects.map(|it| it.build_id()),
            modules.filter_map(|it| Some((it.elf.load_bias, it.build_id?))),
        );
        let Ok(snapshot) = snapshot::render(&self.core, &self.host) else {
            return;
        };
        let before = core::mem::replace(&mut self.snapshot, snapshot);
        let (address, length) = (self.snapshot.as_ptr() as u64, self.snapshot.len() as u64);
        self.control.publish_snapshot(address, length);
        // A controller that is still reading the old snapshot finds another generation and reads
        // again.
        drop(before);
    }
}

/// The definition of a payload's patch for the core.
pub(crate) fn definition(payload: &Payload) -> Result<PatchDefinition, Failure> {
    // No states and the default replace set: a payload cannot carry others yet.
    let mut definition = PatchDefinition::default();
    extend(&mut definition.name, payload.name().iter().copied())?;
    for view in payload.objects() {
        let build_id = view.object.build_id;
        let bytes = build_id
            .bytes
            .get(..build_id.length as usize)
            .unwrap_or_default();
        let build_id = BuildId::new(bytes).ok_or_else(Failure::bad_payload)?;
        let mut funcs = Vec::new();
        extend(
            &mut funcs,
            view.functions()
                .iter()
                .filter_map(|function| view.entry(function)),
        )?;
        let object = ObjectDefinition {
            build_id,
            funcs,
            // A payload cannot carry callbacks yet.
            callbacks: Callbacks::default(),
        };
        extend(&mut definition.objects, [object])?;
    }
    Ok(definition)
}

/// The failure for a refusal of the core. Refusals that a controller's own checks exclude share one
/// text.
pub(crate) fn refusal(reason: Refusal) -> Failure {
    let text: &[u8] = match reason {
        Refusal::OutOfMemory => return Failure::out_of_memory(),
        Refusal::Busy(_) => {
            let text = b"another patch is being enabled or disabled";
            return Failure::new(Outcome::InTransition, text);
        }
        Refusal::NotInTransition(_) => b"the patch is not in transition (any more)",
        Refusal::AlreadyHeading(_) | Refusal::AlreadyStarted(_) | Refusal::NotStarted(_) => {
            b"another controller has taken the transition over"
        }
        Refusal::Waiting(_) => b"threads have yet to leave the code that is replaced",
        Refusal::NotEnabled(_) => b"the patch is not enabled",
        Refusal::NotPrepared(_) => b"the patch is not prepared (any more)",
        Refusal::Forced(_) => b"a patch of this name was forced out and cannot come again",
        Refusal::NoObjects => b"the patch changes nothing",
        Refusal::DuplicateObject(_) => b"the patch names an object twice",
        Refusal::DuplicateFunction(..) => b"the patch names a function twice",
        Refusal::FunctionOfAnotherSet(..) => b"a patch of another set changes the same function",
        _ => b"the patch's state does not allow it",
    };
    Failure::new(Outcome::NotAllowed, text)
}

/// Appends items. The failure is that there is no memory.
pub(crate) fn extend<T>(
    list: &mut Vec<T>,
    items: impl IntoIterator<Item = T>,
) -> Result<(), Failure> {
    items.into_iter().try_for_each(|item| {
        list.try_reserve(1).map_err(|_| Failure::out_of_memory())?;
        list.push(item);
        Ok(())
    })
}
