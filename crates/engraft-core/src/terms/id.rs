//! What things are called.

/// A patch. Chosen by the caller; unique among the patches that [`Livepatch`](crate::Livepatch)
/// still knows, so it may be used again after
/// [`World::release_patch`](crate::World::release_patch).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PatchId(pub u32);

/// A module: one loaded instance of an ELF file. Chosen by the caller; free again once the module
/// was refused, has gone, or was found gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModuleId(pub u32);

/// A thread, by the value of its thread pointer. Zero stands for all threads that have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct ThreadId(pub u64);

/// A state that patches bring into the process and hand on (`klp_state::id`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateId(pub u64);

/// An object of a patch, by its place in [`PatchDefinition::objects`](crate::PatchDefinition).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// The patch.
    pub patch: PatchId,
    /// Index into its objects.
    pub object: u32,
}

/// A func of a patch, by its place in [`ObjectDefinition::funcs`](crate::ObjectDefinition).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FuncId {
    /// The patch.
    pub patch: PatchId,
    /// Index into its objects.
    pub object: u32,
    /// Index into the object's funcs.
    pub func: u32,
}
