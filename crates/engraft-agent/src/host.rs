//! How the core acts on the target: images, detours, and the bookkeeping that belongs to them.
//!
//! Nothing is decided here; [`engraft_core`] says what and when.

#![expect(unsafe_code, reason = "writes detours")]

use alloc::vec::Vec;
use core::ops::Range;

use engraft_abi::{CodeRange, DetourWrite, Outcome, PayloadFunction, PayloadPart};
use engraft_core::{
    Callback, CallbackScope, Code, Event, FuncId, Leaving, LinkAddress, ModuleId, ObjectId,
    PatchId, PatchState, SiteTarget, StateId, ThreadId, Trouble, World,
};

use crate::code::{self, DETOUR_LENGTH};
use crate::failure::{Failure, Text};
use crate::image::{Image, Symbols};
use crate::memory;
use crate::modules::{Module, Modules};
use crate::payloads::{Payload, PayloadView, Payloads};

/// The agent's side of the model.
pub(crate) struct Host {
    /// What is loaded.
    pub modules: Modules,
    /// What was handed over.
    pub payloads: Payloads,
    pub images: Vec<PlacedImage>,
    detours: Vec<Detour>,
    /// Where the open transition leads. The controller opens one only when all threads are stopped and
    /// can switch at once, so sites go straight there instead of choosing by thread.
    destination_state: PatchState,
    /// What the last command wrote, for the controller to verify.
    pub writes: Vec<DetourWrite>,
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

/// An overwritten function entry.
struct Detour {
    module: ModuleId,
    function: LinkAddress,
    address: u64,
    original: [u8; DETOUR_LENGTH],
    current: [u8; DETOUR_LENGTH],
}

impl Host {
    /// The host of a process with these modules and no patches.
    pub(crate) fn new(modules: Modules) -> Self {
        Self {
            modules,
            payloads: Payloads::new(),
            images: Vec::new(),
            detours: Vec::new(),
            destination_state: PatchState::Patched,
            writes: Vec::new(),
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

    /// Forgets a module that is not mapped any more, and takes the images away that were made for it.
    pub(crate) fn forget_module(&mut self, module: ModuleId) {
        self.detours.retain(|detour| detour.module != module);
        self.modules.remove(module);
        for placed in self.images.extract_if(.., |placed| placed.module == module) {
            if let Err(failure) = placed.image.release() {
                self.trouble = Some(failure);
            }
        }
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

    /// Adds the addresses of a body that threads have to leave.
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
                // One byte more in front: at the start of a range a thread counts as clear, because it
                // has executed nothing there and will go through the site. Here it is past the site.
                push_range(ranges, code.start - 1..code.end, name)
            }
            Code::Original => {
                let parts = old.parts.of::<PayloadPart>(view.buffer).unwrap_or_default();
                parts.iter().try_for_each(|part| {
                    let start = module.elf.load_bias.wrapping_add(part.address);
                    push_range(ranges, start..start + u64::from(part.code.length), name)
                })
            }
        }
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
                self.check_bytes(&range, code).map_err(|difference| {
                    let address = difference.address.wrapping_sub(module.elf.load_bias);
                    code_differs(view.name(function), address, b"differs")
                })?;
            }
            if code::detour_offset(view.old_code(function).unwrap_or_default()).is_none() {
                let text = Text::EMPTY.push(b"function '").push(view.name(function));
                let text = text.push(b"' is shorter than a jump");
                return Err(Failure {
                    outcome: Outcome::NoRoom,
                    text,
                });
            }
        }
        Ok(())
    }

    fn check_bytes(&self, range: &Range<u64>, code: &[u8]) -> Result<(), memory::Difference> {
        let within = |detour: &&Detour| range.contains(&detour.address);
        let Some(detour) = self.detours.iter().find(within) else {
            return memory::equals(range.start, code);
        };
        let (before, rest) = code.split_at((detour.address - range.start) as usize);
        let (replaced, after) = rest.split_at(DETOUR_LENGTH.min(rest.len()));
        memory::equals(range.start, before)?;
        memory::equals(detour.address, &detour.current)?;
        memory::equals(detour.address + replaced.len() as u64, after)?;
        match detour.original == *replaced {
            true => Ok(()),
            false => Err(memory::Difference {
                address: detour.address,
            }),
        }
    }

    /// Where a site's target is in memory; `None` for the old function itself.
    fn destination(
        &self,
        target: SiteTarget,
        module: ModuleId,
    ) -> Result<Option<(ObjectId, u64)>, Failure> {
        let code = match (target, self.destination_state) {
            (SiteTarget::Original, _) => Code::Original,
            (SiteTarget::Direct(func), _) => Code::Func(func),
            (SiteTarget::Dispatch { old, .. }, PatchState::Unpatched) => old,
            (SiteTarget::Dispatch { new, .. }, PatchState::Patched) => new,
        };
        let Code::Func(func) = code else {
            return Ok(None);
        };
        let object = ObjectId {
            patch: func.patch,
            object: func.object,
        };
        let image = self
            .image(object, module)
            .ok_or_else(Failure::bad_payload)?;
        let functions = self.view(object)?.functions();
        let function = functions
            .get(func.func as usize)
            .ok_or_else(Failure::bad_payload)?;
        Ok(Some((object, image.base + function.new_offset)))
    }

    /// The detour of a function, made (but not written) if there is none.
    fn detour(&mut self, module: ModuleId, function: LinkAddress) -> Result<usize, Failure> {
        let known = |detour: &Detour| detour.module == module && detour.function == function;
        if let Some(index) = self.detours.iter().position(known) {
            return Ok(index);
        }
        let (view, old) = self.old_function(self.module(module)?, function)?;
        let old_code = view.old_code(old).ok_or_else(Failure::bad_payload)?;
        let offset = code::detour_offset(old_code).ok_or_else(Failure::bad_payload)?;
        let original = old_code
            .get(offset..)
            .and_then(<[u8]>::first_chunk::<DETOUR_LENGTH>)
            .copied()
            .ok_or_else(Failure::bad_payload)?;
        let start = self.module(module)?.elf.load_bias.wrapping_add(function.0);
        let address = start + offset as u64;
        self.detours
            .try_reserve(1)
            .map_err(|_| Failure::out_of_memory())?;
        self.detours.push(Detour {
            module,
            function,
            address,
            original,
            current: original,
        });
        Ok(self.detours.len() - 1)
    }

    /// Writes the bytes of a detour, if they are not there already.
    fn write_detour(&mut self, index: usize, bytes: [u8; DETOUR_LENGTH]) -> Result<(), Failure> {
        self.writes
            .try_reserve(1)
            .map_err(|_| Failure::out_of_memory())?;
        let detour = self
            .detours
            .get_mut(index)
            .ok_or_else(Failure::bad_payload)?;
        if detour.current == bytes {
            return Ok(());
        }
        memory::equals(detour.address, &detour.current).map_err(|_| {
            let text = Text::EMPTY.push(b"somebody else has changed the code at ");
            let text = text.push_hexadecimal(detour.address);
            Failure {
                outcome: Outcome::CodeDiffers,
                text,
            }
        })?;
        // SAFETY: either the controller has stopped all threads and none is inside these bytes, or the
        // module is coming and nobody runs it yet. What is written is a whole jump, or the old code.
        unsafe { code::write_code(detour.address, &bytes) }?;
        detour.current = bytes;
        let mut expected = [0; 16];
        for (to, from) in expected.iter_mut().zip(bytes) {
            *to = from;
        }
        let length = DETOUR_LENGTH as u64;
        self.writes.push(DetourWrite {
            address: detour.address,
            length,
            bytes: expected,
        });
        Ok(())
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
        let image = Image::place(view.buffer, view.object, &target.span, &symbols)?;
        self.images.push(PlacedImage {
            object,
            module,
            image,
            used: false,
        });
        Ok(())
    }

    fn release_object(&mut self, object: ObjectId, module: ModuleId) -> Result<(), Failure> {
        // A detour that leads nowhere any more is the old code again.
        self.detours
            .retain(|detour| detour.current != detour.original);
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
        let destination = self.destination(target, module)?;
        let index = self.detour(module, function)?;
        let detour = self.detours.get(index).ok_or_else(Failure::bad_payload)?;
        let bytes = match destination {
            Some((_, to)) => code::jump(detour.address, to).ok_or_else(code::out_of_reach)?,
            None => detour.original,
        };
        self.write_detour(index, bytes)?;
        if let Some((object, _)) = destination {
            let this =
                |placed: &&mut PlacedImage| placed.object == object && placed.module == module;
            if let Some(placed) = self.images.iter_mut().find(this) {
                placed.used = true;
            }
        }
        Ok(())
    }

    fn open_transition(
        &mut self,
        others: PatchState,
        threads: &mut dyn Iterator<Item = (ThreadId, PatchState)>,
    ) -> Result<(), Failure> {
        for (_, state) in threads {
            if state != others {
                let text = b"a thread would have to stay behind";
                return Err(Failure::new(Outcome::NotAllowed, text));
            }
        }
        self.destination_state = others.other();
        Ok(())
    }

    fn switch_others(&mut self, _: PatchState) {}

    fn switch_thread(&mut self, _: ThreadId, _: PatchState) {}

    fn close_transition(&mut self) {}

    fn event(&mut self, event: Event) {
        match event {
            Event::Refusing(patch, _) => self.refusing = Some(patch),
            Event::Starting(patch, PatchState::Patched) => self.payloads.keep(patch),
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

pub(crate) fn push_range(
    ranges: &mut Vec<CodeRange>,
    range: Range<u64>,
    name: &[u8],
) -> Result<(), Failure> {
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
