//! The live patching model as a pure state machine.
//!
//! This crate owns the rules: which patches are enabled and in which order, which modules they are
//! bound to, what runs at each patched function, which threads have switched. It never
//! dereferences an address and never makes a system call; it acts through the [`World`] trait. The
//! same code runs inside a target process, in the model checker and in tests.
//!
//! The nouns are the Linux kernel's: a [`PatchDefinition`] names objects and functions, a module is
//! one loaded instance of an object, each patched function of a module has a *site* with a *func
//! stack*, and a *transition* moves threads, one by one, from one universe to the other.
//!
//! # Memory
//!
//! `no_std` with `alloc`, and one choice of allocator: the crate's user sets the global allocator
//! (the target's runtime serves it from its own mapping, the host from `std`). The model is a
//! handful of short lists whose sizes only the patches know; fixed arrays would either refuse
//! honest patches or cost every target their worst case. In exchange, running out of memory has to
//! be an ordinary error, because the process belongs to the user: every growth of a list goes
//! through the module `grow`, which reserves fallibly and reports [`OutOfMemory`], only `Vec` is
//! used, and whatever undoes or completes something allocates nothing. A test fails each allocation
//! in turn.
//!
//! Two parts stand apart, because patched code uses them at any time, without the lock that the
//! owner of a [`Livepatch`] holds: [`dispatch`] and [`door`], which are lock-free, and the
//! [`ShadowStore`].
//!
//! # Folders
//!
//! From top to bottom. Each may use those below it, and none above:
//!
//! | folder | what it is for |
//! |---|---|
//! | `livepatch` | what happens when patches and modules come and go, and in which order |
//! | `model` | sites, modules, patches, the transition, shadow variables, and the world |
//! | `dispatch` | which body a call goes to while a transition is on |
//! | `terms` | names, definitions, events, errors |

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod dispatch;
mod livepatch;
mod model;
mod terms;

pub use dispatch::door;
pub use livepatch::{Leaving, Livepatch};
pub use model::{
    Binding, BlockedThread, Func, FuncState, Module, ModuleState, Object, Patch, ShadowError,
    ShadowStore, Site, Transition, World,
};
pub use terms::{
    BuildId, Callback, CallbackScope, Callbacks, Code, Error, Event, FuncId, LinkAddress, ModuleId,
    ObjectDefinition, ObjectId, OutOfMemory, PatchDefinition, PatchId, PatchState, Refusal,
    SiteTarget, StateDefinition, StateId, ThreadId, Trouble,
};
