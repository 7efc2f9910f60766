//! The bytes of an image while it grows.

use engraft_patch::{
    Image, ImageAddress, ImageRange, LinkAddress, Relocation, RelocationKind, RelocationTarget,
    Segment,
};

/// Where something is; zero-initialised bytes get their offset in the data segment at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Spot {
    pub(crate) area: Area,
    pub(crate) offset: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Area {
    Text,
    ReadOnly,
    Data,
    Bss,
}

/// A relocation whose image addresses are not final.
#[derive(Debug, Clone)]
pub(crate) struct Fixup {
    pub(crate) place: Spot,
    pub(crate) kind: RelocationKind,
    pub(crate) target: FixupTarget,
    pub(crate) addend: i64,
}

#[derive(Debug, Clone)]
pub(crate) enum FixupTarget {
    Spot(Spot),
    /// An object's address or an import.
    Outside(RelocationTarget),
}

#[derive(Debug, Default)]
pub(crate) struct ImageDraft {
    text: Vec<u8>,
    read_only: Vec<u8>,
    data: Vec<u8>,
    bss: u64,
    fixups: Vec<Fixup>,
}

/// Where the zero-initialised bytes begin: as aligned as any variable in them wants to be.
pub(crate) const BSS_ALIGNMENT: u64 = 64;
/// Nothing runs into the gaps between functions: int3 traps there.
pub(crate) const FILLER: u8 = 0xcc;

impl ImageDraft {
    /// Reserves aligned room for `bytes`, or for `size` zeroes.
    pub(crate) fn add(&mut self, area: Area, bytes: &[u8], size: u64, alignment: u64) -> Spot {
        let Some(vector) = self.vector(area) else {
            let offset = self.bss.next_multiple_of(alignment.max(1));
            self.bss = offset.saturating_add(size);
            return Spot { area, offset };
        };
        let offset = (vector.len() as u64).next_multiple_of(alignment.max(1));
        let filler = if area == Area::Text { FILLER } else { 0 };
        vector.resize(usize::try_from(offset).unwrap_or(vector.len()), filler);
        vector.extend_from_slice(bytes);
        Spot { area, offset }
    }

    pub(crate) fn fixup(&mut self, fixup: Fixup) {
        self.fixups.push(fixup);
    }

    /// Writes a value that is known now.
    pub(crate) fn write(&mut self, place: Spot, value: &[u8]) {
        let Some(vector) = self.vector(place.area) else {
            return;
        };
        let Ok(start) = usize::try_from(place.offset) else {
            return;
        };
        if let Some(field) = vector.get_mut(start..start.saturating_add(value.len())) {
            field.copy_from_slice(value);
        }
    }

    /// How much code there is.
    pub(crate) fn text_size(&self) -> u32 {
        u32::try_from(self.text.len()).unwrap_or(u32::MAX)
    }

    pub(crate) fn address(&self, spot: Spot) -> ImageAddress {
        let base = (self.data.len() as u64).next_multiple_of(BSS_ALIGNMENT);
        match spot.area {
            Area::Text => ImageAddress {
                segment: Segment::Text,
                offset: spot.offset,
            },
            Area::ReadOnly => ImageAddress {
                segment: Segment::ReadOnly,
                offset: spot.offset,
            },
            Area::Data => ImageAddress {
                segment: Segment::Data,
                offset: spot.offset,
            },
            Area::Bss => ImageAddress {
                segment: Segment::Data,
                offset: base + spot.offset,
            },
        }
    }

    pub(crate) fn finish(mut self, unwind: Option<ImageRange>, address_escapes: bool) -> Image {
        let mut relocations = Vec::new();
        for fixup in std::mem::take(&mut self.fixups) {
            if self.is_known(&fixup) {
                continue;
            }
            let place = self.address(fixup.place);
            let target = match fixup.target {
                FixupTarget::Spot(spot) => RelocationTarget::Image(self.address(spot)),
                FixupTarget::Outside(target) => target,
            };
            relocations.push(Relocation {
                place,
                kind: fixup.kind,
                target,
                addend: fixup.addend,
            });
        }
        if self.bss > 0 {
            let base = (self.data.len() as u64).next_multiple_of(BSS_ALIGNMENT);
            self.data
                .resize(usize::try_from(base).unwrap_or(self.data.len()), 0);
        }
        Image {
            text: self.text,
            read_only: self.read_only,
            data: self.data,
            bss_size: self.bss,
            relocations,
            unwind,
            address_escapes,
        }
    }

    /// Distances inside the text do not depend on where it is: writes them.
    fn is_known(&mut self, fixup: &Fixup) -> bool {
        let FixupTarget::Spot(target) = fixup.target else {
            return false;
        };
        let in_text = fixup.place.area == Area::Text && target.area == Area::Text;
        if !in_text || fixup.kind != RelocationKind::PcRelative32 {
            return false;
        }
        let distance =
            i128::from(target.offset) + i128::from(fixup.addend) - i128::from(fixup.place.offset);
        let Ok(distance) = i32::try_from(distance) else {
            return false;
        };
        self.write(fixup.place, &distance.to_le_bytes());
        true
    }

    fn vector(&mut self, area: Area) -> Option<&mut Vec<u8>> {
        match area {
            Area::Text => Some(&mut self.text),
            Area::ReadOnly => Some(&mut self.read_only),
            Area::Data => Some(&mut self.data),
            Area::Bss => None,
        }
    }
}

/// An address of the binary, with a name for messages.
pub(crate) fn object_target(name: &str, address: LinkAddress) -> FixupTarget {
    FixupTarget::Outside(RelocationTarget::Object {
        name: name.to_owned(),
        address,
    })
}
