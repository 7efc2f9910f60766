//! A compiled object, seen as items that refer to each other.
//!
//! An item is what a linker could move on its own: a function, a variable, a string, a constant, a
//! jump table. Relocations of the file name symbols or whole sections; here each one refers to an
//! item and an offset in it, or to an undefined symbol.

//!
//! Must not know whether the object is the original or the fixed one, or the binary.

mod code;
mod frame_descriptions;
mod item;
mod items;
mod parse;
mod reloc;

pub(crate) use frame_descriptions::{
    FUNCTION as FRAME_FUNCTION, FrameDescription, ID as FRAME_ID, SIZE as FRAME_SIZE,
};
pub(crate) use item::{Item, ItemId, Kind};
pub(crate) use items::Unit;
pub use parse::ObjectFileError;
pub(crate) use reloc::{Flow, Referent, Reloc};
