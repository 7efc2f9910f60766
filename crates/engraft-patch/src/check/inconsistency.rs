//! What is wrong with a patch, by rule.

use super::MAXIMUM_IMAGE;
use crate::model::{RelocationKind, Segment};

/// A rule that a patch breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Inconsistency {
    /// The patch's name.
    #[error("the patch name {name:?} is not 1 to 63 bytes of [A-Za-z0-9._-]")]
    PatchName {
        /// As found.
        name: String,
    },
    /// Nothing to do.
    #[error("the patch changes no object")]
    NoObjects,
    /// An object without functions.
    #[error("object {object} has no functions")]
    NoFunctions {
        /// The object's file name.
        object: String,
    },
    /// Two objects with the same build-id.
    #[error("two objects have the build-id {build_id}")]
    DuplicateObject {
        /// In hexadecimal.
        build_id: String,
    },
    /// A name that cannot be a symbol, a version or a file name.
    #[error("{name:?} is no valid {what}")]
    Name {
        /// As found.
        name: String,
        /// What it should name.
        what: &'static str,
    },
    /// An old function without bytes.
    #[error("function {function} has no old code, or an empty part of it")]
    EmptyPart {
        /// Its name.
        function: String,
    },
    /// An address outside the lower half of the address space.
    #[error("{what} at {address:#x} + {size:#x} lies outside the address space")]
    Address {
        /// What is there.
        what: String,
        /// Its link-time address.
        address: u64,
        /// Its size in bytes.
        size: u64,
    },
    /// The same old bytes claimed twice: a function listed twice, or two that share bytes.
    #[error("functions {first} and {second} overlap at {address:#x} in the old binary")]
    OverlappingFunctions {
        /// The one at the lower address.
        first: String,
        /// The other.
        second: String,
        /// Start of the other.
        address: u64,
    },
    /// A new function that is not inside the image's text.
    #[error(
        "new code of {function} ({segment:?} {offset:#x} + {size:#x}) is not inside the text of {text:#x} bytes"
    )]
    EntryOutsideText {
        /// Its name.
        function: String,
        /// Where it says it is.
        segment: Segment,
        /// Its offset.
        offset: u64,
        /// Its size.
        size: u64,
        /// Bytes of text there are.
        text: u64,
    },
    /// An old function with no room for the jump to new code.
    #[error("the old code of {function} is shorter than a jump")]
    NoSite {
        /// Its name.
        function: String,
    },
    /// A trampoline that is not inside the image's text.
    #[error(
        "the trampoline of {function} ({segment:?} {offset:#x} + {size:#x}) is not inside the text of {text:#x} bytes"
    )]
    TrampolineOutsideText {
        /// The function's name.
        function: String,
        /// Where it says it is.
        segment: Segment,
        /// Its offset.
        offset: u64,
        /// Its size.
        size: u64,
        /// Bytes of text there are.
        text: u64,
    },
    /// Call frame information that is not inside the image's read-only bytes.
    #[error(
        "the call frame information ({segment:?} {offset:#x} + {size:#x}) is not inside the read-only data of {read_only:#x} bytes"
    )]
    UnwindOutsideReadOnly {
        /// Where it says it is.
        segment: Segment,
        /// Its offset.
        offset: u64,
        /// Its size.
        size: u64,
        /// Bytes of read-only data there are.
        read_only: u64,
    },
    /// An image that could never be placed near its object.
    #[error("the image has {size:#x} bytes; the limit is {MAXIMUM_IMAGE:#x}")]
    ImageTooLarge {
        /// Its size.
        size: u64,
    },
    /// A relocation that would write outside its segment's bytes.
    #[error(
        "relocation of {width} bytes at {segment:?} {offset:#x} is not inside the {size:#x} bytes there"
    )]
    PlaceOutside {
        /// The place's segment.
        segment: Segment,
        /// The place's offset.
        offset: u64,
        /// Bytes it writes.
        width: u64,
        /// Bytes there are.
        size: u64,
    },
    /// Two relocations that write the same byte: their order would matter.
    #[error("two relocations write {segment:?} {offset:#x}")]
    OverlappingPlaces {
        /// The places' segment.
        segment: Segment,
        /// Offset of the later one.
        offset: u64,
    },
    /// A relocation that refers to something outside the image.
    #[error("a relocation refers to {segment:?} {offset:#x}, outside the {size:#x} bytes there")]
    TargetOutside {
        /// The target's segment.
        segment: Segment,
        /// The target's offset.
        offset: u64,
        /// Bytes there are.
        size: u64,
    },
    /// An import that is not a GOT slot.
    #[error(
        "import {import} is referred to by {kind:?} with addend {addend}, not Absolute64 with 0"
    )]
    ImportNotSlot {
        /// The import's name.
        import: String,
        /// As found.
        kind: RelocationKind,
        /// As found.
        addend: i64,
    },
}
