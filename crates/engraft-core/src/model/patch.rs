//! Patches that are being enabled or are enabled, their objects and funcs.

use alloc::vec::Vec;

use super::site::Entry;
use crate::terms::grow;
use crate::{
    BuildId, Callbacks, FuncId, LinkAddress, ObjectId, PatchDefinition, PatchId, Refusal,
    StateDefinition,
};

/// A patch.
#[cfg_attr(feature = "controls", derive(Clone))]
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Patch {
    id: PatchId,
    name: Vec<u8>,
    set: Vec<u8>,
    replace: bool,
    pub(crate) enabled: bool,
    objects: Vec<Object>,
    pub(crate) states: Vec<State>,
}

/// An object of a patch.
#[cfg_attr(feature = "controls", derive(Clone))]
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Object {
    build_id: BuildId,
    callbacks: Callbacks,
    funcs: Vec<Func>,
    /// Added for nops alone; the world knows nothing of it (`klp_object::dynamic`).
    dynamic: bool,
}

/// A func of a patch: an old function that gets new code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Func {
    function: LinkAddress,
    /// Stands for the original code (`klp_func::nop`).
    nop: bool,
}

/// What a func does in one module, the kernel's two flags as one value.
///
/// | `patched` | `transition` | state          | threads run                          |
/// |-----------|--------------|----------------|--------------------------------------|
/// | 0         | 0            | `Unpatched`    | what is below                        |
/// | 0         | 1            | `Applying`     | what is below, the site comes next   |
/// | 1         | 1            | `InTransition` | the func if switched, else below     |
/// | 1         | 0            | `Patched`      | the func, unless another is above it |
///
/// Enabling goes down the table and disabling goes up. The state is derived from the func stack
/// and the transition, so there are no flags that could disagree with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FuncState {
    /// Not on the func stack.
    Unpatched,
    /// Its patch is in transition, it is not on the func stack (yet, or any more).
    Applying,
    /// On the func stack, threads choose.
    InTransition,
    /// On the func stack, and all threads run it.
    Patched,
}

/// A state that a patch has.
#[cfg_attr(feature = "controls", derive(Clone))]
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) definition: StateDefinition,
    /// `pre_patch` succeeded, or another patch had brought the state: `post_unpatch` is owed.
    pub(crate) pre_patched: bool,
}

impl Patch {
    pub(crate) fn new(id: PatchId, definition: PatchDefinition) -> Result<Self, Refusal> {
        let PatchDefinition {
            name,
            set,
            replace,
            objects: definitions,
            states: wanted,
        } = definition;
        let mut objects = Vec::new();
        for definition in definitions {
            let mut funcs = Vec::new();
            for function in definition.funcs {
                grow::push(
                    &mut funcs,
                    Func {
                        function,
                        nop: false,
                    },
                )?;
            }
            let object = Object {
                build_id: definition.build_id,
                callbacks: definition.callbacks,
                funcs,
                dynamic: false,
            };
            grow::push(&mut objects, object)?;
        }
        let mut states = Vec::new();
        for definition in wanted {
            grow::push(
                &mut states,
                State {
                    definition,
                    pre_patched: false,
                },
            )?;
        }
        Ok(Self {
            id,
            name,
            set,
            replace,
            enabled: false,
            objects,
            states,
        })
    }

    /// The patch.
    pub const fn id(&self) -> PatchId {
        self.id
    }

    /// Its name.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    pub(crate) fn into_name(self) -> Vec<u8> {
        self.name
    }

    /// The set that it belongs to.
    pub fn set(&self) -> &[u8] {
        &self.set
    }

    /// Whether it replaces what its set had before.
    pub const fn replace(&self) -> bool {
        self.replace
    }

    /// Whether it is enabled or on its way there, rather than on its way out.
    pub const fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Its objects: first those of its definition, then those that were added for nops.
    pub fn objects(&self) -> &[Object] {
        &self.objects
    }

    /// The objects with their ids, in callback order.
    pub(crate) fn numbered(&self) -> impl Iterator<Item = (ObjectId, &Object)> + '_ {
        // The number cannot overflow: `check_definition` and `add_nops` see to it.
        (0_u32..).zip(&self.objects).map(|(object, it)| {
            (
                ObjectId {
                    patch: self.id,
                    object,
                },
                it,
            )
        })
    }

    /// The object that modules with this build-id are instances of.
    pub(crate) fn object(&self, build_id: BuildId) -> Option<(ObjectId, &Object)> {
        self.numbered()
            .find(|(_, object)| object.build_id == build_id)
    }

    /// Whether it changes the function with its own code.
    pub(crate) fn changes(&self, build_id: BuildId, function: LinkAddress) -> bool {
        self.object(build_id)
            .is_some_and(|(_, object)| object.func(function).is_some())
    }

    /// Whether it leaves when `newer` comes.
    pub(crate) fn is_replaced_by(&self, newer: &Self) -> bool {
        newer.replace && self.id != newer.id && self.set == newer.set
    }

    /// Adds a nop for each function that `older` changes and this patch does not, so that such a
    /// function goes back to its original code together with all other changes
    /// (`klp_add_nops`).
    pub(crate) fn add_nops(&mut self, older: &Self) -> Result<(), Refusal> {
        for old in &older.objects {
            let index = match self
                .objects
                .iter()
                .position(|it| it.build_id == old.build_id)
            {
                Some(index) => index,
                None => {
                    let object = Object {
                        build_id: old.build_id,
                        callbacks: Callbacks::default(),
                        funcs: Vec::new(),
                        dynamic: true,
                    };
                    grow::push(&mut self.objects, object)?;
                    self.objects.len() - 1
                }
            };
            let object = self.objects.get_mut(index).ok_or(Refusal::TooLarge)?;
            for func in &old.funcs {
                if object.func(func.function).is_none() {
                    grow::push(&mut object.funcs, Func { nop: true, ..*func })?;
                }
            }
            u32::try_from(object.funcs.len()).map_err(|_| Refusal::TooLarge)?;
        }
        u32::try_from(self.objects.len()).map_err(|_| Refusal::TooLarge)?;
        Ok(())
    }

    /// Drops the nops, once all threads run the original code of the functions.
    pub(crate) fn discard_nops(&mut self) {
        self.objects.retain(|object| !object.dynamic);
        for object in &mut self.objects {
            object.funcs.retain(|func| !func.nop);
        }
    }
}

impl Object {
    /// The file.
    pub const fn build_id(&self) -> BuildId {
        self.build_id
    }

    /// Which callbacks exist.
    pub const fn callbacks(&self) -> Callbacks {
        self.callbacks
    }

    /// The funcs: first those of the definition, then nops.
    pub fn funcs(&self) -> &[Func] {
        &self.funcs
    }

    pub(crate) const fn is_dynamic(&self) -> bool {
        self.dynamic
    }

    fn func(&self, function: LinkAddress) -> Option<&Func> {
        self.funcs.iter().find(|func| func.function == function)
    }

    /// The funcs as they go onto the stacks.
    pub(crate) fn entries(&self, id: ObjectId) -> impl Iterator<Item = (LinkAddress, Entry)> + '_ {
        (0_u32..).zip(&self.funcs).map(move |(func, it)| {
            let func = FuncId {
                patch: id.patch,
                object: id.object,
                func,
            };
            (it.function, Entry { func, nop: it.nop })
        })
    }
}

impl Func {
    /// The old function.
    pub const fn function(&self) -> LinkAddress {
        self.function
    }

    /// Whether it stands for the original code, because the patch replaces one that changed the
    /// function and does not change it itself.
    pub const fn is_nop(&self) -> bool {
        self.nop
    }
}
