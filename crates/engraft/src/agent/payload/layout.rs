//! Where the parts of an image are in memory.

use engraft_abi::{STUB_SIZE, WORDS_SIZE};
use engraft_patch::{ImageAddress, Object, Segment};

/// Images are laid out in pages, as the agent does it.
const PAGE: u64 = 4096;
/// Of the room that each function gets for what the agent makes.
const ROOM_ALIGNMENT: u64 = 16;
/// Where everything is in an object's image in memory, from its start. Behind the patch's own text and variables
/// there is room for what the agent makes: a stub and some words for each function. So that the offsets of
/// everything else stay, and the words begin as zeroes, they stand behind the zero-initialised variables.
#[derive(Debug, Clone, Copy)]
pub(super) struct ImageLayout {
    pub(super) stubs: u64,
    read_only: u64,
    pub(super) data: u64,
    pub(super) words: u64,
    pub(super) end: u64,
}

impl ImageLayout {
    pub(super) fn of(object: &Object) -> Self {
        let count = object.functions.len() as u64;
        let room = |size: u64| count.saturating_mul(size);
        let image = &object.image;
        let stubs = image.size(Segment::Text).next_multiple_of(ROOM_ALIGNMENT);
        let read_only = stubs.saturating_add(room(STUB_SIZE)).next_multiple_of(PAGE);
        let constants = image.size(Segment::ReadOnly);
        let data = read_only.saturating_add(constants).next_multiple_of(PAGE);
        let variables = image.size(Segment::Data);
        let words = data
            .saturating_add(variables)
            .next_multiple_of(ROOM_ALIGNMENT);
        let end = words.saturating_add(room(WORDS_SIZE));
        Self {
            stubs,
            read_only,
            data,
            words,
            end,
        }
    }

    pub(super) fn offset(&self, address: ImageAddress) -> u64 {
        let segment = match address.segment {
            Segment::Text => 0,
            Segment::ReadOnly => self.read_only,
            Segment::Data => self.data,
        };
        segment.saturating_add(address.offset)
    }
}

/// How many bytes of memory, in whole pages, the image of an object takes.
pub(crate) fn image_length(object: &Object) -> u64 {
    ImageLayout::of(object).end.next_multiple_of(PAGE)
}
