//! Where the segments of an image are in memory.

use engraft_machine::PAGE_SIZE;

use crate::payload::PayloadObject;

/// Where the segments of an image are, in bytes from its start: the text first, the constants and
/// the variables at the next page each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageSegments {
    /// Where the text ends.
    pub text_length: u64,
    /// Where the constants start.
    pub read_only: u64,
    /// Where the variables start.
    pub data: u64,
    /// The size of the whole image: whole pages.
    pub length: u64,
}

impl ImageSegments {
    /// The layout for segments of these sizes; `None` if they do not fit into 64 bits. `data`
    /// counts the zero-initialised variables too.
    #[must_use]
    pub fn new(text: u64, read_only: u64, data: u64) -> Option<Self> {
        let after = |start: u64, length: u64| {
            start
                .checked_add(length)?
                .checked_next_multiple_of(PAGE_SIZE)
        };
        let read_only_start = after(0, text)?;
        let data_start = after(read_only_start, read_only)?;
        Some(Self {
            text_length: text,
            read_only: read_only_start,
            data: data_start,
            length: after(data_start, data)?,
        })
    }

    /// The layout of an object's image.
    #[must_use]
    pub fn of(object: &PayloadObject) -> Option<Self> {
        let data = u64::from(object.data.length).checked_add(object.bss_size)?;
        Self::new(
            object.text.length.into(),
            object.read_only.length.into(),
            data,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_segment_starts_at_a_page() {
        let layout = ImageSegments::new(1, 0x1000, 0x1001).unwrap();
        let ImageSegments {
            text_length,
            read_only,
            data,
            length,
        } = layout;
        assert_eq!(
            (text_length, read_only, data, length),
            (1, 0x1000, 0x2000, 0x4000)
        );
        assert_eq!(ImageSegments::new(0, 0, 0).unwrap().length, 0);
    }

    #[test]
    fn sizes_that_do_not_fit_have_no_layout() {
        assert_eq!(ImageSegments::new(u64::MAX, 0, 0), None);
        assert_eq!(ImageSegments::new(0, u64::MAX - 0xfff, 0x1000), None);
        assert_eq!(ImageSegments::new(0, 0, u64::MAX), None);
    }
}
