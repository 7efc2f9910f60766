//! Modules that come and go.

use super::callbacks::call_object;
use super::lists::Livepatch;
use super::objects::{bind, patch_object, release, unbind};
use crate::model::sync_site;
use crate::terms::grow;
use crate::{
    BuildId, Callback, Error, Event, Module, ModuleId, ModuleState, Patch, PatchId, Refusal,
    Trouble, World,
};

impl Livepatch {
    /// Takes in a module that runs already, when live patching begins.
    ///
    /// # Errors
    ///
    /// [`Refusal::PatchesExist`]: a module can join the patches only through
    /// [`module_coming`](Self::module_coming). [`Refusal::ModuleExists`], [`Refusal::OutOfMemory`].
    pub fn adopt_live_module(
        &mut self,
        module: ModuleId,
        build_id: BuildId,
    ) -> Result<(), Refusal> {
        if let Some(patch) = self.patches.iter().chain(&self.prepared).next() {
            return Err(Refusal::PatchesExist(patch.id()));
        }
        self.module_forming(module, build_id)?;
        if let Some(module) = self.modules.last_mut() {
            module.state = ModuleState::Live;
            module.alive = true;
        }
        Ok(())
    }

    /// A module became visible, but is not the business of any patch yet. Need not be called.
    ///
    /// # Errors
    ///
    /// [`Refusal::ModuleExists`], [`Refusal::OutOfMemory`].
    pub fn module_forming(&mut self, module: ModuleId, build_id: BuildId) -> Result<(), Refusal> {
        if self.module(module).is_some() {
            return Err(Refusal::ModuleExists(module));
        }
        Ok(grow::push(
            &mut self.modules,
            Module::new(module, build_id),
        )?)
    }

    /// The coming work, before any code of the module runs (no constructor, no IFUNC resolver) and
    /// before anyone else can call into it: sets `alive`, then applies all patches of the list,
    /// oldest first, also one that is in transition.
    ///
    /// # Errors
    ///
    /// The load must be refused. Everything that was done for the module is undone and it is
    /// forgotten; a site that could not be restored is reported, it will be unmapped anyway.
    /// [`Refusal::ModuleExists`] if the module has come before: nothing has changed.
    pub fn module_coming<W: World>(
        &mut self,
        world: &mut W,
        module: ModuleId,
        build_id: BuildId,
    ) -> Result<(), Error<W::Error>> {
        match self.module(module) {
            None => self.module_forming(module, build_id)?,
            Some(it) if it.state == ModuleState::Unformed && it.build_id() == build_id => {}
            Some(_) => return Err(Refusal::ModuleExists(module).into()),
        }
        let transition = self.moving_patch();
        let Self {
            patches, modules, ..
        } = self;
        let Some(it) = modules.iter_mut().find(|it| it.id() == module) else {
            return Ok(());
        };
        it.state = ModuleState::Coming;
        it.alive = true;
        for patch in patches.iter() {
            if let Err(error) = apply(world, it, patch, transition) {
                world.event(Event::Refusing(patch.id(), module));
                it.alive = false;
                // As in the kernel, in the list's order, and only those before the one that failed.
                for before in patches
                    .iter()
                    .take_while(|before| before.id() != patch.id())
                {
                    revert(world, it, before, transition);
                }
                self.modules.retain(|it| it.id() != module);
                return Err(error);
            }
        }
        Ok(())
    }

    /// The module's constructors have run.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoSuchModule`] if it did not come.
    pub fn module_live(&mut self, module: ModuleId) -> Result<(), Refusal> {
        self.advance(module, ModuleState::Coming, ModuleState::Live)
    }

    /// The module's destructors are about to run. It keeps its patches, and even gets new ones,
    /// until [`module_going`](Self::module_going).
    ///
    /// # Errors
    ///
    /// [`Refusal::NoSuchModule`] if it is not live.
    pub fn module_exiting(&mut self, module: ModuleId) -> Result<(), Refusal> {
        self.advance(module, ModuleState::Live, ModuleState::Going)
    }

    /// The going work, when the last destructor has run (or a constructor has failed) and before
    /// the module is unmapped: clears `alive`, undoes all patches in the list's order, and forgets
    /// the module. What cannot be undone is reported; it cannot be put off.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoSuchModule`].
    pub fn module_going<W: World>(
        &mut self,
        world: &mut W,
        module: ModuleId,
    ) -> Result<(), Refusal> {
        let transition = self.moving_patch();
        let mut modules = self.modules.iter_mut();
        let it = modules
            .find(|it| it.id() == module)
            .ok_or(Refusal::NoSuchModule(module))?;
        it.state = ModuleState::Going;
        it.alive = false;
        for patch in &self.patches {
            revert(world, it, patch, transition);
        }
        self.forget(world, module);
        Ok(())
    }

    /// The module was unmapped without notice. It is forgotten: no site is written, no callback
    /// runs (both could only reach what is no longer there), images are released.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoSuchModule`].
    pub fn module_gone<W: World>(
        &mut self,
        world: &mut W,
        module: ModuleId,
    ) -> Result<(), Refusal> {
        let mut modules = self.modules.iter_mut();
        let it = modules
            .find(|it| it.id() == module)
            .ok_or(Refusal::NoSuchModule(module))?;
        it.alive = false;
        for patch in &self.patches {
            if it.binding(patch.id()).is_some() {
                world.event(Event::Forgetting(patch.id(), module));
                unbind(world, it, patch);
            }
        }
        self.forget(world, module);
        Ok(())
    }

    /// The last of a module: what no listed patch has there, the prepared one's image and those of
    /// patches that were forced out.
    fn forget<W: World>(&mut self, world: &mut W, module: ModuleId) {
        let Some(it) = self.modules.iter_mut().find(|it| it.id() == module) else {
            return;
        };
        if let Some(prepared) = &self.prepared {
            unbind(world, it, prepared);
        }
        for binding in &it.bindings {
            release(world, binding.object, module);
        }
        self.modules.retain(|it| it.id() != module);
    }

    fn advance(
        &mut self,
        module: ModuleId,
        from: ModuleState,
        to: ModuleState,
    ) -> Result<(), Refusal> {
        let mut modules = self.modules.iter_mut();
        let it = modules.find(|it| it.id() == module && it.state == from);
        it.ok_or(Refusal::NoSuchModule(module))?.state = to;
        Ok(())
    }
}

/// Applies one patch to a coming module, or leaves no trace of it.
fn apply<W: World>(
    world: &mut W,
    module: &mut Module,
    patch: &Patch,
    transition: Option<PatchId>,
) -> Result<(), Error<W::Error>> {
    if patch.object(module.build_id()).is_none() || module.binding(patch.id()).is_some() {
        return Ok(());
    }
    if let Err(error) = bind(world, module, patch) {
        world.event(Event::InitializeFailed(patch.id(), module.id()));
        return Err(error);
    }
    world.event(Event::Applying(patch.id(), module.id()));
    if let Err(error) = patch_object(world, module, patch, transition) {
        unpatch(world, module, patch, transition);
        call_object(world, module, patch, Callback::PostUnpatch);
        unbind(world, module, patch);
        return Err(error);
    }
    if transition != Some(patch.id()) {
        call_object(world, module, patch, Callback::PostPatch);
    }
    Ok(())
}

/// Undoes [`apply`] for a module that is about to be unmapped.
fn revert<W: World>(
    world: &mut W,
    module: &mut Module,
    patch: &Patch,
    transition: Option<PatchId>,
) {
    if module.binding(patch.id()).is_none() {
        return;
    }
    if transition != Some(patch.id()) {
        call_object(world, module, patch, Callback::PreUnpatch);
    }
    world.event(Event::Reverting(patch.id(), module.id()));
    unpatch(world, module, patch, transition);
    call_object(world, module, patch, Callback::PostUnpatch);
    unbind(world, module, patch);
}

/// Takes a patch's funcs off the stacks of a module that is about to be unmapped.
fn unpatch<W: World>(
    world: &mut W,
    module: &mut Module,
    patch: &Patch,
    transition: Option<PatchId>,
) {
    let id = module.id();
    for site in &mut module.sites {
        let written = sync_site(world, id, site, transition, |entry| {
            entry.func.patch != patch.id()
        });
        if let Err(error) = written {
            world.report(Trouble::Site(id, site.function()), error);
        }
    }
    module.retain_funcs(|entry| entry.func.patch != patch.id());
}
