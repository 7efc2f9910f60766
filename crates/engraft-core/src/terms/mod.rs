//! What the model is about: names, definitions, events, errors, and how a list grows.
//!
//! Must not know what the rules are.

mod code;
mod definition;
mod error;
mod event;
pub(crate) mod grow;
mod id;
mod patch_state;

pub use code::{Code, SiteTarget};
pub use definition::{Callbacks, ObjectDefinition, PatchDefinition, StateDefinition};
pub use engraft_machine::{BuildId, LinkAddress};
pub use error::{Error, OutOfMemory, Refusal, Trouble};
pub use event::{Callback, CallbackScope, Event};
pub use id::{FuncId, ModuleId, ObjectId, PatchId, StateId, ThreadId};
pub use patch_state::PatchState;
