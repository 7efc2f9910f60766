//! How the core acts on the target: images, detours, and the bookkeeping that belongs to them.
//!
//! Nothing is decided here; [`engraft_core`] says what and when.

#![expect(unsafe_code, reason = "fills words of images")]

use alloc::vec::Vec;
use core::ops::Range;

use engraft_abi::{CodeRange, Outcome, PayloadFunction, PayloadPart};
use engraft_core::dispatch::{SiteWords, encode};
use engraft_core::{
    Callback, CallbackScope, Code, Event, FuncId, Leaving, LinkAddress, ModuleId, ObjectId,
    PatchId, PatchState, SiteTarget, StateId, ThreadId, Trouble, World,
};

use crate::code::DETOUR_LENGTH;
use crate::control::ControlBlock;
use crate::dispatch;
use crate::failure::{Failure, Text};
use crate::image::{Image, Placement, Symbols};
use crate::memory;
use crate::modules::{Module, Modules};
use crate::payloads::{Payload, PayloadView, Payloads};
use crate::request::Writer;
use crate::site::{Site, Sites};
use crate::unwinders::Unwinders;

/// The agent's side of the model.
pub(crate) struct Host {
    /// What is loaded.
    pub modules: Modules,
    /// What was handed over.
    pub payloads: Payloads,
    pub images: Vec<PlacedImage>,
    sites: Sites,
    /// Who follows stacks through new code.
    pub unwinders: Unwinders,
    /// Who writes code.
    pub writer: Writer,
    /// The agent's own code, and where stubs go in it.
    text: Range<u64>,
    dispatch: u64,
    /// What could not be undone since the last command.
    pub trouble: Option<Failure>,
    /// The patch that had the last module refused.
    pub refusing: Option<PatchId>,
}

/// An image and what it is for.
pub(crate) struct PlacedImage {
    pub object: ObjectId,
    module: ModuleId,
    pub image: Image,
    /// Sites have led here. From then on the program may hold pointers to its data: constants and
    /// variables of new code are passed on like any others. So it stays after its patch has been
    /// disabled, for as long as the module does (the kernel, too, keeps a disabled patch's module),
    /// and is used again if the same patch comes again.
    used: bool,
}

impl Host {
    /// The host of a process with these modules and no patches.
    pub(crate) fn new(modules: Modules, control: ControlBlock) -> Self {
        let facts = control.read();
        Self {
            modules,
            payloads: Payloads::new(),
            images: Vec::new(),
            sites: Sites::new(),
            unwinders: Unwinders::new(),
            writer: Writer::Controller(control),
            text: facts.text..facts.text + facts.text_length,
            dispatch: facts.dispatch,
            trouble: None,
            refusing: None,
        }
    }

    /// The image of an object for a module.
    pub(crate) fn image(&self, object: ObjectId, module: ModuleId) -> Option<&Image> {
        self.images
            .iter()
            .find(|placed| placed.object == object && placed.module == module)
            .map(|placed| &placed.image)
    }

    /// Whether a module has images.
    pub(crate) fn has_images(&self, module: ModuleId) -> bool {
        self.images.iter().any(|placed| placed.module == module)
    }

    /// Forgets a module that is not mapped any more, and takes the images away that were made for it.
    pub(crate) fn forget_module(&mut self, module: ModuleId) {
        self.sites.forget_module(module);
        self.modules.remove(module);
        for placed in self.images.extract_if(.., |placed| placed.module == module) {
            if let Err(failure) = placed.image.release() {
                self.trouble = Some(failure);
            }
        }
        if let Err(failure) = self.unwinders.forget(Some(module)) {
            self.trouble = Some(failure);
        }
    }

    /// Finds the unwinders of all modules, and makes them ready to be led through new code.
    pub(crate) fn prepare_unwinders(&mut self) -> Result<(), Failure> {
        for module in self.modules.iter() {
            if !self.unwinders.has(module.id)
                && let Some(function) = module.find_fde()
            {
                self.unwinders
                    .add(module.id, module.span.clone(), function)?;
            }
        }
        self.unwinders.prepare();
        Ok(())
    }

    /// The payload of a patch.
    pub(crate) fn payload(&self, patch: PatchId) -> Result<&Payload, Failure> {
        self.payloads.get(patch).ok_or_else(Failure::bad_payload)
    }

    /// Frees the payload of a patch, unless it or images of it are kept.
    pub(crate) fn release_payload(&mut self, patch: PatchId) {
        let of_patch = |placed: &PlacedImage| placed.object.patch == patch;
        let kept = self.payloads.get(patch).is_some_and(Payload::is_kept);
        if kept || self.images.iter().any(of_patch) {
            return;
        }
        if let Err(failure) = self.payloads.remove(patch) {
            self.trouble = Some(failure);
        }
    }

    /// Adds the addresses of a body that threads have to leave, and of the ways to it.
    pub(crate) fn push_ranges(
        &self,
        ranges: &mut Vec<CodeRange>,
        leaving: Leaving,
    ) -> Result<(), Failure> {
        let module = self.module(leaving.module)?;
        let (view, old) = self.old_function(module, leaving.function)?;
        let name = view.name(old);
        match leaving.code {
            // All of the image, since the new code of a function may have several parts, and what
            // only the image has goes away with it.
            Code::Func(FuncId { patch, object, .. }) => {
                let image = self.image(ObjectId { patch, object }, module.id);
                let code = image.ok_or_else(Failure::bad_payload)?.code();
                push_inside(ranges, code, name)?;
            }
            Code::Original => {
                let parts = old.parts.of::<PayloadPart>(view.buffer).unwrap_or_default();
                parts.iter().try_for_each(|part| {
                    let start = module.elf.load_bias.wrapping_add(part.address);
                    push_range(ranges, start..start + u64::from(part.code.length), name)
                })?;
            }
        }
        // A thread in a stub has not decided, or has decided and not gone yet; one in a trampoline is in
        // the old function.
        for placed in self.images.iter().filter(|it| it.module == module.id) {
            let Some(function) = self.function(placed.object, leaving.function) else {
                continue;
            };
            for (offset, size) in [
                (function.trampoline_offset, function.trampoline_size),
                (function.stub_offset, dispatch::STUB_LENGTH as u64),
            ] {
                let start = placed.image.base + offset;
                push_inside(ranges, start..start + size, name)?;
            }
        }
        Ok(())
    }

    /// Adds the agent's own code, where a thread may be on its way from a stub to a body.
    pub(crate) fn push_own_range(&self, ranges: &mut Vec<CodeRange>) -> Result<(), Failure> {
        push_inside(ranges, self.text.clone(), b"engraft's dispatch")
    }

    /// Adds the bytes that will be overwritten for a body that is the old function itself: no thread may be
    /// about to execute the middle of them.
    pub(crate) fn push_site(
        &self,
        sites: &mut Vec<CodeRange>,
        leaving: Leaving,
    ) -> Result<(), Failure> {
        let known = self.sites.get(leaving.module, leaving.function);
        if leaving.code != Code::Original || known.is_some_and(|site| !site.is_original()) {
            return Ok(());
        }
        let module = self.module(leaving.module)?;
        let (view, old) = self.old_function(module, leaving.function)?;
        let start = module.elf.load_bias.wrapping_add(leaving.function.0) + old.site_offset;
        push_range(sites, start..start + DETOUR_LENGTH as u64, view.name(old))
    }

    /// Adds the bytes of unwinders that will be overwritten before a patch comes into effect.
    pub(crate) fn push_unwinder_sites(&self, sites: &mut Vec<CodeRange>) -> Result<(), Failure> {
        let mut ranges = self.unwinders.sites();
        ranges.try_for_each(|range| push_range(sites, range, b"_Unwind_Find_FDE"))
    }

    /// What a patch's object says of an old function.
    fn function(&self, object: ObjectId, function: LinkAddress) -> Option<&PayloadFunction> {
        self.payloads.view(object)?.function_at(function)
    }

    /// What some patch knows of an old function of a module: they all know the same.
    fn old_function(
        &self,
        module: &Module,
        function: LinkAddress,
    ) -> Result<(PayloadView<'_>, &PayloadFunction), Failure> {
        let build_id = module.build_id.ok_or_else(Failure::bad_payload)?;
        self.payloads
            .objects()
            .filter(|view| view.is(build_id.as_bytes()))
            .find_map(|view| Some((view, view.function_at(function)?)))
            .ok_or_else(Failure::bad_payload)
    }

    fn view(&self, object: ObjectId) -> Result<PayloadView<'_>, Failure> {
        self.payloads.view(object).ok_or_else(Failure::bad_payload)
    }

    fn module(&self, id: ModuleId) -> Result<&Module, Failure> {
        self.modules.get(id).ok_or_else(Failure::bad_payload)
    }

    /// That the module's code is what the patch was built against. Our own detours count as the bytes
    /// that they replaced.
    fn check_code(&self, view: PayloadView<'_>, module: &Module) -> Result<(), Failure> {
        for function in view.functions() {
            for part in function
                .parts
                .of::<PayloadPart>(view.buffer)
                .unwrap_or_default()
            {
                let code = part.code.of(view.buffer).unwrap_or_default();
                let start = module.elf.load_bias.wrapping_add(part.address);
                let range = start..start.wrapping_add(code.len() as u64);
                if !module.elf.is_code(&range) {
                    return Err(code_differs(
                        view.name(function),
                        part.address,
                        b"is not code",
                    ));
                }
                if self.unwinders.begins_in(&range) {
                    let text = b"engraft itself needs _Unwind_Find_FDE, which cannot be patched";
                    return Err(Failure::new(Outcome::NotAllowed, text));
                }
                self.check_bytes(&range, code).map_err(|difference| {
                    let address = difference.address.wrapping_sub(module.elf.load_bias);
                    code_differs(view.name(function), address, b"differs")
                })?;
            }
        }
        Ok(())
    }

    fn check_bytes(&self, range: &Range<u64>, code: &[u8]) -> Result<(), memory::Difference> {
        let Some(site) = self.sites.within(range) else {
            return memory::equals(range.start, code);
        };
        let (before, rest) = code.split_at((site.address - range.start) as usize);
        let (replaced, after) = rest.split_at(DETOUR_LENGTH.min(rest.len()));
        memory::equals(range.start, before)?;
        memory::equals(site.address, &site.current)?;
        memory::equals(site.address + replaced.len() as u64, after)?;
        match site.original == *replaced {
            true => Ok(()),
            false => Err(memory::Difference {
                address: site.address,
            }),
        }
    }

    /// Where a body is in memory; the old function's, by the way in the image of `with`.
    fn body(
        &self,
        code: Code,
        module: ModuleId,
        function: LinkAddress,
        with: ObjectId,
    ) -> Result<u64, Failure> {
        let (object, is_original) = match code {
            Code::Original => (with, true),
            Code::Func(FuncId { patch, object, .. }) => (ObjectId { patch, object }, false),
        };
        self.place(module, function, object, |known| match is_original {
            true => known.trampoline_offset,
            false => known.new_offset,
        })
    }

    /// Where a choice leads, by the ways in the image of `with`.
    fn bodies(
        &self,
        module: ModuleId,
        function: LinkAddress,
        with: ObjectId,
        (old, new): (Code, Code),
    ) -> Result<(u64, u64), Failure> {
        let body = |code| self.body(code, module, function, with);
        Ok((body(old)?, body(new)?))
    }

    /// The words of the stub in the image of `with`.
    fn words(
        &self,
        module: ModuleId,
        function: LinkAddress,
        with: ObjectId,
    ) -> Result<&'static SiteWords, Failure> {
        let place = |known: &PayloadFunction| known.words_offset;
        let words = self.place(module, function, with, place)? as usize;
        let words = core::ptr::with_exposed_provenance::<SiteWords>(words);
        // SAFETY: `Payload::check` has made sure that they are aligned words of the image's data, which are for
        // nothing else; whoever releases the image has forgotten its sites.
        Ok(unsafe { &*words })
    }

    /// Address of the stub in the image of `with`.
    fn stub(
        &self,
        module: ModuleId,
        function: LinkAddress,
        with: ObjectId,
    ) -> Result<u64, Failure> {
        self.place(module, function, with, |known| known.stub_offset)
    }

    /// A place in the image of `with` that belongs to a function.
    fn place(
        &self,
        module: ModuleId,
        function: LinkAddress,
        with: ObjectId,
        offset: impl Fn(&PayloadFunction) -> u64,
    ) -> Result<u64, Failure> {
        let image = self.image(with, module);
        let image = image.ok_or_else(Failure::bad_payload)?;
        let known = self.function(with, function);
        Ok(image.base + offset(known.ok_or_else(Failure::bad_payload)?))
    }

    /// The image that has the stub for a choice: that of the newer body, or else of the older one.
    fn chooser(target: SiteTarget) -> Option<ObjectId> {
        let SiteTarget::Dispatch { old, new } = target else {
            return None;
        };
        [new, old].into_iter().find_map(|code| match code {
            Code::Func(FuncId { patch, object, .. }) => Some(ObjectId { patch, object }),
            Code::Original => None,
        })
    }

    /// Makes a site known, before anything leads through it.
    fn add_site(&mut self, module: ModuleId, function: LinkAddress) -> Result<(), Failure> {
        if self.sites.get(module, function).is_some() {
            return Ok(());
        }
        let (view, old) = self.old_function(self.module(module)?, function)?;
        let original = view
            .old_code(old)
            .and_then(|code| code.get(old.site_offset as usize..))
            .and_then(<[u8]>::first_chunk::<DETOUR_LENGTH>)
            .copied()
            .ok_or_else(Failure::bad_payload)?;
        let start = self.module(module)?.elf.load_bias.wrapping_add(function.0);
        self.sites.add(Site {
            module,
            function,
            address: start + old.site_offset,
            original,
            current: original,
            stub: None,
        })
    }

    /// Sites have led, or are about to lead, into an image: it stays for as long as its patch is known.
    fn use_image(&mut self, object: ObjectId, module: ModuleId) {
        let mut images = self.images.iter_mut();
        if let Some(placed) = images.find(|it| it.object == object && it.module == module) {
            placed.used = true;
        }
    }
}

impl World for Host {
    type Error = Failure;

    fn prepare_object(&mut self, object: ObjectId, module: ModuleId) -> Result<(), Failure> {
        self.images
            .try_reserve(1)
            .map_err(|_| Failure::out_of_memory())?;
        let view = self.view(object)?;
        let target = self.module(module)?;
        if !target.is_live() && target.elf.has_text_relocations() {
            let text = b"its code has relocations, which would overwrite the patch (DT_TEXTREL)";
            return Err(Failure::new(Outcome::CodeDiffers, text));
        }
        self.check_code(view, target)?;
        if self.image(object, module).is_some() {
            return Ok(());
        }
        let symbols = ModuleSymbols {
            modules: &self.modules,
            module: target,
            view,
        };
        let place = Placement {
            module: &target.span,
            symbols: &symbols,
            dispatch: self.dispatch,
            name: c"engraft-patch",
        };
        let image = Image::place(view.buffer, view.object, &place)?;
        self.images.push(PlacedImage {
            object,
            module,
            image,
            used: false,
        });
        Ok(())
    }

    fn release_object(&mut self, object: ObjectId, module: ModuleId) -> Result<(), Failure> {
        self.sites.forget_original();
        let unused = |placed: &PlacedImage| {
            placed.object == object && placed.module == module && !placed.used
        };
        match self.images.iter().position(unused) {
            Some(index) => self.images.swap_remove(index).image.release(),
            None => Ok(()),
        }
    }

    fn release_patch(&mut self, patch: PatchId) {
        self.release_payload(patch);
    }

    fn release_state(&mut self, _: PatchId, _: StateId) {}

    fn callback(&mut self, _: Callback, _: CallbackScope) -> Result<(), Failure> {
        Ok(())
    }

    fn write_site(
        &mut self,
        module: ModuleId,
        function: LinkAddress,
        target: SiteTarget,
    ) -> Result<(), Failure> {
        self.add_site(module, function)?;
        // If that image has been removed, no thread was inside.
        let before = self.sites.get(module, function).and_then(|site| site.stub);
        let before = before.filter(|with| self.image(*with, module).is_some());
        let stub = Self::chooser(target);
        let (old, new) = match target {
            SiteTarget::Original => (Code::Original, Code::Original),
            SiteTarget::Direct(func) => (Code::Func(func), Code::Func(func)),
            SiteTarget::Dispatch { old, new } => (old, new),
        };
        let to = match target {
            SiteTarget::Original => None,
            SiteTarget::Direct(FuncId { patch, object, .. }) => {
                let object = ObjectId { patch, object };
                self.use_image(object, module);
                Some(self.body(new, module, function, object)?)
            }
            SiteTarget::Dispatch { .. } => {
                let with = stub.ok_or_else(Failure::bad_payload)?;
                self.use_image(with, module);
                Some(self.stub(module, function, with)?)
            }
        };
        // Where a site begins to choose, its words come first. If the site cannot be written, they are as
        // they were: a thread may be in the stub from the last time.
        let bodies = |with| self.bodies(module, function, with, (old, new));
        let (words, bodies_then) = match stub {
            Some(with) => (Some(self.words(module, function, with)?), bodies(with)?),
            None => (None, (0, 0)),
        };
        let bodies_now = words.map(SiteWords::bodies);
        if let Some(words) = words {
            words.write(bodies_then.0, bodies_then.1);
        }
        let writer = self.writer;
        let site = self.sites.get_mut(module, function);
        let site = site.ok_or_else(Failure::bad_payload)?;
        if let Err(failure) = site.lead(writer, to) {
            if let (Some(words), Some((old, new))) = (words, bodies_now) {
                words.write(old, new);
            }
            return Err(failure);
        }
        site.stub = stub.or(before);
        // Where it ceases to choose, or chooses elsewhere, the words come after, for threads that are still
        // inside the stub: until this transition closes, their state says the same.
        if let Some(with) = before.filter(|_| stub != before) {
            let (old, new) = self.bodies(module, function, with, (old, new))?;
            self.words(module, function, with)?.write(old, new);
        }
        Ok(())
    }

    fn open_transition(
        &mut self,
        others: PatchState,
        threads: &mut dyn Iterator<Item = (ThreadId, PatchState)>,
    ) -> Result<(), Failure> {
        let opened = dispatch::table().open(others, threads);
        opened.map_err(|_| Failure::out_of_memory())
    }

    fn switch_others(&mut self, state: PatchState) -> Result<(), Failure> {
        self.writer.store(dispatch::others_word(), encode(state))
    }

    fn switch_thread(&mut self, thread: ThreadId, state: PatchState) -> Result<(), Failure> {
        match dispatch::thread_word(thread) {
            Some(word) => self.writer.store(word, encode(state)),
            None => Ok(()),
        }
    }

    fn close_transition(&mut self) {
        dispatch::table().close();
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Refusing(patch, _) => self.refusing = Some(patch),
            Event::Initializing(patch, PatchState::Patched) => self.payloads.keep(patch),
            _ => {}
        }
    }

    fn report(&mut self, _: Trouble, error: Failure) {
        self.trouble = Some(error);
    }
}

/// The symbols that an image for one module can refer to.
struct ModuleSymbols<'a> {
    modules: &'a Modules,
    module: &'a Module,
    view: PayloadView<'a>,
}

impl Symbols for ModuleSymbols<'_> {
    fn object(&self, link_address: u64) -> u64 {
        self.module.elf.load_bias.wrapping_add(link_address)
    }

    fn import(&self, index: u64) -> Result<u64, Failure> {
        let (import, name, version) = self.view.import(index).ok_or_else(Failure::bad_payload)?;
        match self.modules.exported_symbol(name, version) {
            Some(address) => Ok(address),
            None if import.weak != 0 => Ok(0),
            None => {
                let text = Text::EMPTY
                    .push(b"no loaded module defines the symbol '")
                    .push(name);
                let text = if version.is_empty() {
                    text
                } else {
                    text.push(b"@").push(version)
                };
                Err(Failure {
                    outcome: Outcome::SymbolMissing,
                    text: text.push(b"'"),
                })
            }
        }
    }
}

/// The same for code whose very start counts as inside: one byte more in front. (At the start of a range a
/// thread counts as clear, because it has executed nothing there and will go through the site. Here it is past
/// the site.)
pub(crate) fn push_inside(
    ranges: &mut Vec<CodeRange>,
    range: Range<u64>,
    name: &[u8],
) -> Result<(), Failure> {
    push_range(ranges, range.start - 1..range.end, name)
}

fn push_range(ranges: &mut Vec<CodeRange>, range: Range<u64>, name: &[u8]) -> Result<(), Failure> {
    let mut padded = [0; 64];
    for (to, from) in padded.iter_mut().zip(name) {
        *to = *from;
    }
    ranges
        .try_reserve(1)
        .map_err(|_| Failure::out_of_memory())?;
    ranges.push(CodeRange {
        start: range.start,
        end: range.end,
        name: padded,
    });
    Ok(())
}

fn code_differs(function: &[u8], address: u64, how: &[u8]) -> Failure {
    let text = Text::EMPTY
        .push(b"the code of function '")
        .push(function)
        .push(b"' ")
        .push(how)
        .push(b" at link-time address ")
        .push_hexadecimal(address)
        .push(b" from what the patch was built against");
    Failure {
        outcome: Outcome::CodeDiffers,
        text,
    }
}
