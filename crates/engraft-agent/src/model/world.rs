//! How the core's decisions are carried out in the target.

use engraft_abi::ModuleRefusal;
use engraft_core::dispatch::{ListedThread, SiteWords, encode};
use engraft_core::door::Door;
use engraft_core::{
    Callback, CallbackScope, Code, Event, FuncId, LinkAddress, ModuleId, ObjectId, PatchId,
    PatchState, SiteTarget, StateId, ThreadId, Trouble, World,
};

use crate::model::host::{Host, PlacedImage};
use crate::model::symbols::ModuleSymbols;
use crate::patch::dispatch;
use crate::patch::image::{Image, Placement};
use crate::system::failure::Failure;

impl World for Host {
    type Error = Failure;

    fn prepare_object(&mut self, object: ObjectId, module: ModuleId) -> Result<(), Failure> {
        self.images
            .try_reserve(1)
            .map_err(|_| Failure::out_of_memory())?;
        let view = self.view(object)?;
        let target = self.module(module)?;
        if !target.is_live() && target.elf.has_text_relocations() {
            return Err(Failure::refusal(ModuleRefusal::TextRelocations));
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
        let placed = PlacedImage::new(object, module, image, view.object)?;
        self.images.push(placed);
        Ok(())
    }

    fn release_object(&mut self, object: ObjectId, module: ModuleId) -> Result<(), Failure> {
        self.sites.forget_original();
        if self.control.moved_into() == u64::from(object.patch.0) {
            // The controller has moved threads into trampolines of the patch, although no site
            // leads there.
            self.mark_used(object, module);
        }
        let unused = |placed: &PlacedImage| {
            placed.object == object && placed.module == module && !placed.used
        };
        match self.images.iter().position(unused) {
            Some(index) => self.images.swap_remove(index).release(),
            None => Ok(()),
        }
    }

    fn release_patch(&mut self, patch: PatchId) {
        self.release_payload(patch);
    }

    /// Does nothing: the core has states and shadow variables, but a payload cannot carry any yet.
    fn release_state(&mut self, _: PatchId, _: StateId) {}

    /// Does nothing: the core has callbacks, but a payload cannot carry any yet.
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
        // If that image has been removed, no thread was inside the stub.
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
                self.mark_used(object, module);
                Some(self.body(new, module, function, object)?)
            }
            SiteTarget::Dispatch { .. } => {
                let with = stub.ok_or_else(Failure::bad_payload)?;
                self.mark_used(with, module);
                Some(self.stub(module, function, with)?)
            }
        };
        // Where a site begins to choose, its words are written before the jump. If the jump cannot
        // be written, they are restored: a thread may be in the stub since an earlier transition.
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
        if let Err(failure) = site.redirect(writer, to) {
            if let (Some(words), Some((old, new))) = (words, bodies_now) {
                words.write(old, new);
            }
            return Err(failure);
        }
        site.stub = stub.or(before);
        // Where a site ceases to choose, or chooses by another stub, the old stub's words are
        // written after the jump, for threads that are still inside. Until this transition closes,
        // their state leads to the same body.
        if let Some(with) = before.filter(|_| stub != before) {
            let (old, new) = self.bodies(module, function, with, (old, new))?;
            self.words(module, function, with)?.write(old, new);
        }
        Ok(())
    }

    fn open_transition(
        &mut self,
        others: PatchState,
        threads: &mut dyn Iterator<Item = ListedThread>,
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

    fn thread_state(&mut self, thread: ThreadId) -> Option<PatchState> {
        dispatch::table().state(thread)
    }

    fn shut_door(&mut self, thread: ThreadId) -> Option<PatchState> {
        dispatch::table().shut(thread)
    }

    fn set_door(&mut self, thread: ThreadId, door: &Door) {
        dispatch::table().set_door(thread, door);
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
