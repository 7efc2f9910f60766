//! The agent in a process, from outside: finding it, injecting it, giving it commands, reading what
//! it knows.
//!
//! | file | what it does |
//! |---|---|
//! | `running` | the agent that is there: commands, plan, snapshot |
//! | `header` | finds an agent, or what is left of one, in the memory map |
//! | `inject`, `memory`, `layout` | put a new agent into a process |
//! | `blob` | the agent's code as bytes |
//! | `calls`, `mapping` | system calls in the target |
//! | `leftovers` | what an injection that was not completed has left |
//! | `plan`, `snapshot`, `state_words` | what the agent says, decoded |
//! | `payload`, `module_list`, `program_headers` | what the agent is told, encoded |
//!
//! This folder must not know transitions, the stacks of threads, and what the user asked for.

pub(crate) mod blob;
pub(crate) mod calls;
pub(crate) mod header;
pub(crate) mod inject;
mod layout;
pub(crate) mod leftovers;
pub(crate) mod mapping;
mod memory;
pub(crate) mod module_list;
pub(crate) mod payload;
pub(crate) mod plan;
mod program_headers;
pub(crate) mod running;
pub(crate) mod snapshot;
pub(crate) mod state_words;
