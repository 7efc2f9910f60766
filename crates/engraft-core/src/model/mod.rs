//! The nouns, each with its own rules: sites, modules, patches, the transition, shadow variables,
//! and the world that they act on.
//!
//! Must not know in which order things happen when patches and modules come and go.

mod module;
mod patch;
mod shadow;
mod site;
mod transition;
mod world;

pub(crate) use module::sync_site;
pub use module::{Binding, Module, ModuleState};
pub use patch::{Func, FuncState, Object, Patch};
pub use shadow::{ShadowError, ShadowStore};
pub(crate) use site::Entry;
pub use site::Site;
pub(crate) use transition::ThreadRecord;
pub use transition::{BlockedThread, Transition};
pub use world::World;
