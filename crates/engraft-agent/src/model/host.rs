//! What the core acts on in the target: modules, payloads, images, sites, unwinders.
//!
//! Nothing is decided here; [`engraft_core`] says what and when.

#![expect(unsafe_code, reason = "fills words of images")]

use alloc::vec::Vec;
use core::ops::Range;

use engraft_abi::{ModuleRefusal, PayloadFunction, PayloadObject, PayloadPart};
use engraft_core::dispatch::SiteWords;
use engraft_core::{
    Code, FuncId, LinkAddress, Livepatch, ModuleId, ObjectId, Patch, PatchId, SiteTarget,
};
use engraft_machine::jump;

use crate::model::module_registry::{ModuleRegistry, RegisteredModule};
use crate::patch::image::Image;
use crate::patch::payloads::{Payload, PayloadView, Payloads};
use crate::patch::site::{Site, Sites};
use crate::system::code_writer::CodeWriter;
use crate::system::control::ControlBlock;
use crate::system::failure::Failure;
use crate::system::memory;
use crate::unwind::frame_info;
use crate::unwind::unwinders::Unwinders;

/// All that the core's decisions are carried out with.
pub(crate) struct Host {
    /// The loaded modules.
    pub modules: ModuleRegistry,
    /// The patches that controllers have handed over.
    pub payloads: Payloads,
    pub images: Vec<PlacedImage>,
    pub(super) sites: Sites,
    /// The target's unwinders.
    pub unwinders: Unwinders,
    /// Who writes code.
    pub writer: CodeWriter,
    pub(super) control: ControlBlock,
    /// The agent's own code,
    pub(super) text: Range<u64>,
    pub(super) dispatch: u64,
    /// What could not be undone since the last command.
    pub trouble: Option<Failure>,
    /// The patch because of which the last module was refused.
    pub refusing: Option<PatchId>,
}

/// An image, with the object and the module that it is for.
pub(crate) struct PlacedImage {
    pub object: ObjectId,
    pub(super) module: ModuleId,
    pub image: Image,
    /// A site has led here, or the controller has moved threads here. From then on the program may
    /// hold pointers to its data, because new code passes on addresses of its constants and
    /// variables. So the image stays after its patch has been disabled, for as long as the module
    /// is loaded. It is used again if the same patch is enabled again.
    pub(super) used: bool,
}

impl PlacedImage {
    /// Notes an image that was placed, and adds its call frame information. After an error the
    /// image is unmapped.
    pub(super) fn new(
        id: ObjectId,
        module: ModuleId,
        image: Image,
        object: &PayloadObject,
    ) -> Result<Self, Failure> {
        if object.unwind_size != 0 {
            let start = image.base + object.unwind_offset;
            frame_info::add(&image.code(), start..start + object.unwind_size).map_err(
                |failure| match image.unmap() {
                    Ok(()) => failure,
                    Err(undo) => undo,
                },
            )?;
        }
        Ok(Self {
            object: id,
            module,
            image,
            used: false,
        })
    }

    /// Unmaps the image, unless the program may still hold a pointer into it.
    pub(super) fn release(&self) -> Result<(), Failure> {
        if self.image.escapes() {
            return Ok(());
        }
        frame_info::remove(self.image.base);
        self.image.unmap()
    }
}

impl Host {
    /// The host of a process with these modules and no patches.
    pub(crate) fn new(modules: ModuleRegistry, control: ControlBlock) -> Self {
        let facts = control.read();
        Self {
            modules,
            payloads: Payloads::new(),
            images: Vec::new(),
            sites: Sites::new(),
            unwinders: Unwinders::new(),
            writer: CodeWriter::Controller(control),
            control,
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

    /// The patches that are known and not enabled, in no particular order.
    pub(crate) fn disabled(&self, core: &Livepatch) -> impl Iterator<Item = &Payload> {
        let prepared = core.prepared().map(Patch::id);
        self.payloads.iter().filter(move |payload| {
            let patch = payload.patch();
            // One that is being prepared for the first time is not known yet.
            core.patch(patch).is_none() && (payload.is_kept() || prepared != Some(patch))
        })
    }

    /// Forgets a module that has been unmapped, and unmaps the images that were made for it.
    pub(crate) fn forget_module(&mut self, module: ModuleId) {
        self.sites.forget_module(module);
        self.modules.remove(module);
        for placed in self.images.extract_if(.., |placed| placed.module == module) {
            if let Err(failure) = placed.release() {
                self.trouble = Some(failure);
            }
        }
        if let Err(failure) = self.unwinders.forget(Some(module)) {
            self.trouble = Some(failure);
        }
    }

    /// Finds the unwinders of all modules, and prepares them for the redirect.
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

    /// What a patch's object says of an old function.
    pub(super) fn function(
        &self,
        object: ObjectId,
        function: LinkAddress,
    ) -> Option<&PayloadFunction> {
        self.payloads.view(object)?.function_at(function)
    }

    /// What the patches say of an old function of a module. All that change it say the same.
    pub(super) fn old_function(
        &self,
        module: &RegisteredModule,
        function: LinkAddress,
    ) -> Result<(PayloadView<'_>, &PayloadFunction), Failure> {
        let build_id = module.build_id.ok_or_else(Failure::bad_payload)?;
        self.payloads
            .objects()
            .filter(|view| view.is(build_id.as_bytes()))
            .find_map(|view| Some((view, view.function_at(function)?)))
            .ok_or_else(Failure::bad_payload)
    }

    pub(super) fn view(&self, object: ObjectId) -> Result<PayloadView<'_>, Failure> {
        self.payloads.view(object).ok_or_else(Failure::bad_payload)
    }

    pub(super) fn module(&self, id: ModuleId) -> Result<&RegisteredModule, Failure> {
        self.modules.get(id).ok_or_else(Failure::bad_payload)
    }

    /// Checks that the module's code is what the patch was built against. A site counts as the
    /// bytes that its jump has replaced.
    pub(super) fn check_code(
        &self,
        view: PayloadView<'_>,
        module: &RegisteredModule,
    ) -> Result<(), Failure> {
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
                    return Err(Failure::refusal(ModuleRefusal::NotCode {
                        function: view.name(function),
                        address: part.address,
                    }));
                }
                if self.unwinders.begins_in(&range) {
                    return Err(Failure::refusal(ModuleRefusal::Unwinder));
                }
                self.check_bytes(&range, code).map_err(|difference| {
                    Failure::refusal(ModuleRefusal::CodeDiffers {
                        function: view.name(function),
                        address: difference.address.wrapping_sub(module.elf.load_bias),
                    })
                })?;
            }
        }
        Ok(())
    }

    pub(super) fn check_bytes(
        &self,
        range: &Range<u64>,
        code: &[u8],
    ) -> Result<(), memory::Difference> {
        let Some(site) = self.sites.within(range) else {
            return memory::equals(range.start, code);
        };
        let (before, rest) = code.split_at((site.address - range.start) as usize);
        let (replaced, after) = rest.split_at(jump::LENGTH.min(rest.len()));
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

    /// The address of a body. That of the old function is the trampoline in the image of `with`.
    pub(super) fn body(
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

    /// The addresses of the two bodies of a choice, with the trampoline in the image of `with`.
    pub(super) fn bodies(
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
    pub(super) fn words(
        &self,
        module: ModuleId,
        function: LinkAddress,
        with: ObjectId,
    ) -> Result<&'static SiteWords, Failure> {
        let place = |known: &PayloadFunction| known.words_offset;
        let words = self.place(module, function, with, place)? as usize;
        let words = core::ptr::with_exposed_provenance::<SiteWords>(words);
        // SAFETY: `Payload::check` has made sure that they are aligned words of the image's data,
        // which are for nothing else. The image is released after its sites were forgotten.
        Ok(unsafe { &*words })
    }

    /// Address of the stub in the image of `with`.
    pub(super) fn stub(
        &self,
        module: ModuleId,
        function: LinkAddress,
        with: ObjectId,
    ) -> Result<u64, Failure> {
        self.place(module, function, with, |known| known.stub_offset)
    }

    /// The address of something in the image of `with` that belongs to a function.
    pub(super) fn place(
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

    /// The object whose image has the stub for a choice: the newer body's object if it has one,
    /// otherwise the older body's.
    pub(super) fn chooser(target: SiteTarget) -> Option<ObjectId> {
        let SiteTarget::Dispatch { old, new } = target else {
            return None;
        };
        [new, old].into_iter().find_map(|code| match code {
            Code::Func(FuncId { patch, object, .. }) => Some(ObjectId { patch, object }),
            Code::Original => None,
        })
    }

    /// Adds a site for a function, unless there is one.
    pub(super) fn add_site(
        &mut self,
        module: ModuleId,
        function: LinkAddress,
    ) -> Result<(), Failure> {
        if self.sites.get(module, function).is_some() {
            return Ok(());
        }
        let (view, old) = self.old_function(self.module(module)?, function)?;
        let original = view
            .old_code(old)
            .and_then(|code| code.get(old.site_offset as usize..))
            .and_then(<[u8]>::first_chunk::<{ jump::LENGTH }>)
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

    /// Marks an image as used: a site is about to lead into it. It stays for as long as its patch
    /// is known.
    pub(super) fn mark_used(&mut self, object: ObjectId, module: ModuleId) {
        let mut images = self.images.iter_mut();
        if let Some(placed) = images.find(|it| it.object == object && it.module == module) {
            placed.used = true;
        }
    }
}
