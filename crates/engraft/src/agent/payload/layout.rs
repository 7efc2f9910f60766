//! The layout of an image in memory.

use engraft_abi::{ImageSegments, STUB_SIZE, WORDS_SIZE};
use engraft_patch::{ImageAddress, Object, Segment};

/// Alignment of a function's stub and words.
const ROOM_ALIGNMENT: u64 = 16;

/// The offsets of the parts of an object's image. The agent makes a stub and some words for each
/// function. The stubs come after the patch's own code, so the offsets in it stay. The words come
/// after the zero-initialised variables, so they start as zeroes.
///
/// | part | pages |
/// |---|---|
/// | code, stubs | executable |
/// | constants | read-only |
/// | variables, zero-initialised variables, words | writable |
#[derive(Debug, Clone, Copy)]
pub(super) struct ImageLayout {
    pub(super) stubs: u64,
    pub(super) words: u64,
    pub(super) end: u64,
    pub(super) segments: ImageSegments,
}

impl ImageLayout {
    pub(super) fn of(object: &Object) -> Self {
        let count = object.functions.len() as u64;
        let room = |size: u64| count.saturating_mul(size);
        let image = &object.image;
        let stubs = image.size(Segment::Text).next_multiple_of(ROOM_ALIGNMENT);
        let words = image.size(Segment::Data).next_multiple_of(ROOM_ALIGNMENT);
        let data = words.saturating_add(room(WORDS_SIZE));
        let text = stubs.saturating_add(room(STUB_SIZE));
        let segments = ImageSegments::new(text, image.size(Segment::ReadOnly), data);
        let segments = segments.unwrap_or(TOO_LARGE);
        Self {
            stubs,
            words: segments.data.saturating_add(words),
            end: segments.data.saturating_add(data),
            segments,
        }
    }

    /// The offset of an address of the patch's image.
    pub(super) fn offset(&self, address: ImageAddress) -> u64 {
        let segment = match address.segment {
            Segment::Text => 0,
            Segment::ReadOnly => self.segments.read_only,
            Segment::Data => self.segments.data,
        };
        segment.saturating_add(address.offset)
    }
}

/// In place of a layout that does not exist. A patch that was read cannot be so large
/// ([`engraft_patch::check`]).
const TOO_LARGE: ImageSegments = ImageSegments {
    text_length: u64::MAX,
    read_only: u64::MAX,
    data: u64::MAX,
    length: u64::MAX,
};

/// The size of an object's image in memory, in bytes, in whole pages.
pub(crate) fn image_length(object: &Object) -> u64 {
    ImageLayout::of(object).segments.length
}
