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
//! `no_std` with `alloc`, and one allocator choice: whoever links the crate sets the global
//! allocator (the target's runtime serves it from its own mapping, the host from `std`). The model
//! is a handful of short lists whose sizes only the patches know; fixed arrays would either refuse
//! honest patches or cost every target their worst case. In exchange, running out of memory has to
//! be an ordinary error in somebody else's process: every growth of a list goes through
//! the module `grow`, which reserves fallibly and reports [`OutOfMemory`], only `Vec` is used, and whatever
//! undoes or completes something allocates nothing. A test fails each allocation in turn.
//!
//! Two parts stand apart, because patched code uses them at any time, without the lock that
//! whoever owns a [`Livepatch`] holds: [`dispatch`] and [`door`], which are lock-free, and the
//! [`ShadowStore`].

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod coming;
mod complete;
mod definition;
mod disable;
pub mod dispatch;
pub mod door;
mod enable;
mod error;
mod event;
mod grow;
mod id;
mod leaving;
mod livepatch;
mod module;
mod patch;
mod shadow;
mod site;
mod state;
mod transition;
mod world;

pub use definition::{Callbacks, ObjectDefinition, PatchDefinition, StateDefinition};
pub use error::{Error, OutOfMemory, Refusal, Trouble};
pub use event::{Callback, CallbackScope, Event};
pub use id::{BuildId, FuncId, LinkAddress, ModuleId, ObjectId, PatchId, StateId, ThreadId};
pub use leaving::Leaving;
pub use livepatch::Livepatch;
pub use module::{Binding, Module, ModuleState};
pub use patch::{Func, FuncState, Object, Patch};
pub use shadow::{ShadowError, ShadowStore};
pub use site::{Code, Site, SiteTarget};
pub use transition::{Behind, PatchState, Transition};
pub use world::World;
