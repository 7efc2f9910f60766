//! The runtime inside the target process: the live patching core, and what it needs to act there.
//!
//! A controller injects this crate as a freestanding shared object (feature `freestanding`) and
//! calls it; the dynamic loader calls it at every load and unload. It decides nothing by itself:
//! the rules are [`engraft_core`]'s. It uses raw system calls only, no libc (which may be patched,
//! or absent), and must not know files, JSON or ELF sections: what a patch file says arrives as a
//! flat payload ([`engraft_abi`]).
//!
//! Its folders, each of which uses only those below it:
//!
//! | folder | what it is for |
//! |---|---|
//! | `runtime` | where commands and the loader enter; the lock, the heap, the end of a panic |
//! | `model` | the agent: the core, and what carries its decisions out in this process |
//! | `unwind` | the target's unwinders and their way through new code |
//! | `patch` | payloads, images, sites, dispatch |
//! | `loader` | the dynamic loader's lists and calls, and the ELF files that it has loaded |
//! | `system` | the kernel's calls, memory by address, writing to code, the control block, failures |

#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod loader;
mod model;
mod patch;
mod runtime;
mod system;
mod unwind;

pub use runtime::commands::remote_command;
pub use runtime::loader_call::loader_hook;
