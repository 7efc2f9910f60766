//! The runtime inside the target process: the live patching core, and what it needs to act there.
//!
//! A controller injects this crate as a freestanding shared object (feature `freestanding`) and calls
//! it; the dynamic loader calls it at every load and unload. It decides nothing by itself: the rules
//! are [`engraft_core`]'s. It uses raw system calls only, no libc (which may be patched, or absent),
//! and must not know files, JSON or ELF sections: what a patch file says arrives as a flat payload
//! ([`engraft_abi`]).

#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod agent;
mod broken;
mod caller;
mod calls;
mod code;
mod commands;
mod control;
mod decoy;
mod dispatch;
mod elf;
mod failure;
mod frames;
mod hook;
mod host;
mod image;
mod lists;
mod loader;
mod lock;
mod memory;
mod modules;
mod payloads;
mod prologue;
mod random;
mod request;
mod retired;
#[cfg(feature = "freestanding")]
mod runtime;
mod site;
mod snapshot;
mod system;
mod transition;
mod unwinders;

pub use commands::remote_command;
pub use hook::loader_hook;
