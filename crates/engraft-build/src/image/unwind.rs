//! Call frame information of the functions in the image.

use std::collections::HashMap;

use engraft_patch::ImageRange;

use super::Builder;
use crate::layout::{Area, Fixup, Spot, Target};
use crate::unit::{FRAME_FUNCTION, FRAME_ID, Frame};

/// Entries are padded to it by assemblers.
const ALIGNMENT: u64 = 8;
/// A length of 0 instead of another entry.
const END: [u8; 4] = [0; 4];

impl Builder<'_> {
    /// Brings the frames of all functions in the image, as a section of its own among the read-only data.
    pub(super) fn unwind(&mut self) -> Option<ImageRange> {
        let placed = self.placed;
        let mut table = Table::default();
        for (unit, object) in placed.iter().enumerate() {
            for frame in &object.comparison.fixed.frames {
                let spot = self.spots.get(&(unit, frame.function));
                if let Some(&spot) = spot.filter(|spot| spot.area == Area::Text) {
                    table.add(frame, spot);
                }
            }
        }
        if table.addresses.is_empty() {
            return None;
        }
        table.bytes.extend_from_slice(&END);
        let size = table.bytes.len() as u64;
        let start = self
            .layout
            .add(Area::ReadOnly, &table.bytes, size, ALIGNMENT);
        for (place, frame, function) in table.addresses {
            self.layout.fixup(Fixup {
                place: Spot {
                    area: Area::ReadOnly,
                    offset: start.offset + place as u64,
                },
                kind: frame.kind,
                target: Target::Spot(function),
                addend: frame.offset,
            });
        }
        Some(ImageRange {
            start: self.layout.address(start),
            size,
        })
    }
}

/// A section under construction.
#[derive(Default)]
struct Table<'f> {
    bytes: Vec<u8>,
    /// Where the CIEs are.
    common: HashMap<&'f [u8], usize>,
    /// Where addresses of functions have to be written.
    addresses: Vec<(usize, &'f Frame, Spot)>,
}

impl<'f> Table<'f> {
    fn add(&mut self, frame: &'f Frame, function: Spot) {
        let bytes = &mut self.bytes;
        let cie = *self.common.entry(&frame.cie).or_insert_with(|| {
            let start = bytes.len();
            bytes.extend_from_slice(&frame.cie);
            start
        });
        let start = bytes.len();
        let Ok(distance) = u32::try_from(start + FRAME_ID - cie) else {
            return;
        };
        bytes.extend_from_slice(&frame.fde);
        if let Some(id) = bytes.get_mut(start + FRAME_ID..start + FRAME_FUNCTION) {
            id.copy_from_slice(&distance.to_le_bytes());
        }
        self.addresses
            .push((start + FRAME_FUNCTION, frame, function));
    }
}
