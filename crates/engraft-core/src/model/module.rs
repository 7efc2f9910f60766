//! Modules: loaded instances of objects, and everything that patches have in them.

use alloc::vec::Vec;

use super::site::Entry;
use crate::terms::grow;
use crate::{BuildId, Error, LinkAddress, ModuleId, ObjectId, OutOfMemory, PatchId, Site, World};

/// Where a module is in its life (`enum module_state`). For people and for order checks only:
/// whether a patch binds to a module is decided by [`Module::is_alive`] alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ModuleState {
    /// Mapped, maybe listed by the loader; the coming work has not run.
    Unformed,
    /// The coming work has run; the constructors have not finished.
    Coming,
    /// In use.
    Live,
    /// Its destructors run.
    Going,
}

/// A patch's object, bound to a module: its image is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Binding {
    /// The object.
    pub object: ObjectId,
    /// Whether `pre_patch` has succeeded, so that `post_unpatch` is owed
    /// (`klp_callbacks::post_unpatch_enabled`).
    pub pre_patched: bool,
}

/// A loaded instance of an object. All that any patch has in the module is in here, so that
/// nothing can refer to it once it is gone.
#[cfg_attr(feature = "controls", derive(Clone))]
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Module {
    id: ModuleId,
    build_id: BuildId,
    pub(crate) state: ModuleState,
    pub(crate) alive: bool,
    pub(crate) bindings: Vec<Binding>,
    pub(crate) sites: Vec<Site>,
}

impl Module {
    pub(crate) const fn new(id: ModuleId, build_id: BuildId) -> Self {
        Self {
            id,
            build_id,
            state: ModuleState::Unformed,
            alive: false,
            bindings: Vec::new(),
            sites: Vec::new(),
        }
    }

    /// The module.
    pub const fn id(&self) -> ModuleId {
        self.id
    }

    /// What it is an instance of.
    pub const fn build_id(&self) -> BuildId {
        self.build_id
    }

    /// Where it is in its life.
    pub const fn state(&self) -> ModuleState {
        self.state
    }

    /// Whether the module is the business of the patches (`module::klp_alive`): set before the
    /// first patch touches it, cleared before the last leaves. A new patch binds to a module if
    /// and only if it is alive, so for each pair exactly one side does the work: the coming work
    /// for the patches that are enabled before it, enabling for the modules that came before it.
    pub const fn is_alive(&self) -> bool {
        self.alive
    }

    /// The objects that are bound to it.
    pub fn bindings(&self) -> &[Binding] {
        &self.bindings
    }

    /// The functions that are patched in it.
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// The binding of a patch, at most one: a patch names each object once.
    pub(crate) fn binding(&self, patch: PatchId) -> Option<Binding> {
        self.bindings
            .iter()
            .copied()
            .find(|binding| binding.object.patch == patch)
    }

    pub(crate) fn binding_mut(&mut self, patch: PatchId) -> Option<&mut Binding> {
        self.bindings
            .iter_mut()
            .find(|binding| binding.object.patch == patch)
    }

    /// The site of a function, made if there is none.
    fn site(&mut self, function: LinkAddress) -> Result<&mut Site, OutOfMemory> {
        let index = match self
            .sites
            .iter()
            .position(|site| site.function() == function)
        {
            Some(index) => index,
            None => {
                grow::push(&mut self.sites, Site::new(function))?;
                self.sites.len() - 1
            }
        };
        self.sites.get_mut(index).ok_or(OutOfMemory)
    }

    /// Puts a func on top of its function's stack and makes the site say so.
    pub(crate) fn push_func<W: World>(
        &mut self,
        world: &mut W,
        function: LinkAddress,
        entry: Entry,
        transition: Option<PatchId>,
    ) -> Result<(), Error<W::Error>> {
        let module = self.id;
        let site = self.site(function)?;
        let pushed = site.push(entry).map_err(Error::from).and_then(|()| {
            sync_site(world, module, site, transition, |_| true)
                .map_err(|error| Error::Site(module, function, error))
        });
        if pushed.is_err() {
            self.retain_funcs(|other| other != entry);
        }
        pushed
    }

    /// Takes what does not pass `keep` off all stacks. Sites were written before.
    pub(crate) fn retain_funcs(&mut self, keep: impl Fn(Entry) -> bool) {
        for site in &mut self.sites {
            site.retain(&keep);
        }
        self.sites.retain(|site| !site.is_unused());
    }
}

/// Makes a site say what its stack wants; see [`Site::wanted`].
pub(crate) fn sync_site<W: World>(
    world: &mut W,
    module: ModuleId,
    site: &mut Site,
    transition: Option<PatchId>,
    keep: impl Fn(Entry) -> bool,
) -> Result<(), W::Error> {
    let wanted = site.wanted(transition, keep);
    if site.target != wanted {
        world.write_site(module, site.function(), wanted)?;
        site.target = wanted;
    }
    Ok(())
}
