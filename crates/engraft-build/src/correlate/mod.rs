//! Which code of the binary is which function of the original object.
//!
//! The original's code is compared with the binary's, instruction by instruction. Where it fits,
//! each operand that the linker filled in tells an address: of a function that is called, a
//! variable that is used. So addresses come from the code itself, also of static symbols that share
//! a name, also in a stripped binary; symbol tables only tell where to begin.
//!
//! Must not know the fixed object.

mod content;
mod correlation;
mod matching;
mod relaxed;

pub(crate) use correlation::{Correlation, addresses_by_name, variable_by_name};
pub(crate) use matching::Class;
