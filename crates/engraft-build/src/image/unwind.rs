//! Call frame information of the functions in the image.

use std::collections::HashMap;

use engraft_patch::{ImageRange, RelocationKind};
use object::elf;

use super::builder::{Builder, SlotKey};
use super::changed::TrampolineCode;
use super::draft::{Area, Fixup, FixupTarget, Spot, object_target};
use super::reference::Reference;
use crate::refusal::{Hex, Refusal};
use crate::unit::{
    FRAME_FUNCTION, FRAME_ID, FRAME_SIZE, FrameDescription, ItemId, Kind, Referent, Reloc, Unit,
};

/// Entries are padded to it by assemblers.
const ALIGNMENT: u64 = 8;
/// A length of 0 instead of another entry.
const END: [u8; 4] = [0; 4];
/// What compilers call a variable that holds a personality's address.
const INDIRECT: &str = "DW.ref.";
/// Ways to write an address (`DW_EH_PE_*`): not at all,
const OMITTED: u8 = 0xff;
/// and `DW_EH_PE_pcrel | DW_EH_PE_sdata4`.
const PC_RELATIVE_WORD: u8 = 0x1b;

impl Builder<'_> {
    /// Brings the frames of all functions in the image, as a section of its own among the read-only
    /// data; those of old code in trampolines, too.
    pub(super) fn unwind(&mut self, trampolines: &[TrampolineCode]) -> Option<ImageRange> {
        let linked = self.linked;
        let mut table = Table::default();
        for (unit, object) in linked.iter().enumerate() {
            for frame in &object.comparison.fixed.frames {
                let spot = self.spots.get(&(unit, frame.function)).copied();
                if let Some(spot) = spot.filter(|spot| spot.area == Area::Text) {
                    let added = self.add_frame(&mut table, unit, frame, spot);
                    self.refusals.extend(added.err());
                }
            }
        }
        for code in trampolines {
            let added = self.add_old_frame(&mut table, code);
            self.refusals.extend(added.err());
        }
        if table.bytes.is_empty() {
            return None;
        }
        table.bytes.extend_from_slice(&END);
        let size = table.bytes.len() as u64;
        let start = self
            .draft
            .add(Area::ReadOnly, &table.bytes, size, ALIGNMENT);
        for field in table.fields {
            self.draft.fixup(Fixup {
                place: Spot {
                    area: Area::ReadOnly,
                    offset: start.offset + field.place as u64,
                },
                kind: field.kind,
                target: field.target,
                addend: field.addend,
            });
        }
        Some(ImageRange {
            start: self.draft.address(start),
            size,
        })
    }

    /// Adds the frame of new code, with what is to be cleaned up in it.
    fn add_frame(
        &mut self,
        table: &mut Table,
        unit: usize,
        frame: &FrameDescription,
        function: Spot,
    ) -> Result<(), Refusal> {
        let linked = self.linked;
        let object = &linked[unit].comparison.fixed;
        let personality = self.personality(unit, object, frame, function)?;
        let cleanups = match cleanups(object, frame)? {
            Some(cleanups) => Some(Field {
                target: FixupTarget::Spot(self.include(unit, cleanups.table)),
                ..cleanups.field
            }),
            None => None,
        };
        table.add(frame, personality, cleanups, (function, frame.offset));
        Ok(())
    }

    /// Adds the frame of old code in a trampoline: what is known of the first instructions of the
    /// old function, as if all of it had been moved. One of them may be a call.
    fn add_old_frame(&mut self, table: &mut Table, code: &TrampolineCode) -> Result<(), Refusal> {
        let linked = self.linked;
        let object = &linked[code.unit].comparison.original;
        let mut frames = object.frames.iter();
        let Some(frame) = frames.find(|it| it.function == code.function && it.offset == 0) else {
            let item = object.item(code.function);
            return match item.filter(|item| item.has_unsupported_frames) {
                Some(item) => Err(strange(&item.name)),
                None => Ok(()),
            };
        };
        let personality = self.personality(code.unit, object, frame, code.spot)?;
        let cleanups = cleanups(object, frame)?;
        self.check_layout(code, frame, cleanups.is_some())?;
        let cleanups = match cleanups {
            Some(cleanups) => Some(Field {
                target: FixupTarget::Spot(self.old_cleanups(cleanups.bytes, code)),
                addend: 0,
                ..cleanups.field
            }),
            None => None,
        };
        let start = 0_i64.saturating_sub_unsigned(code.offset);
        let fde = table.add(frame, personality, cleanups, (code.spot, start));
        let size = u32::try_from(code.offset + code.size).unwrap_or(u32::MAX);
        if let Some(field) = table.bytes.get_mut(fde + FRAME_SIZE..fde + FRAME_SIZE + 4) {
            field.copy_from_slice(&size.to_le_bytes());
        }
        Ok(())
    }

    /// Refuses a frame that is about other offsets than those of the old function's instructions:
    /// the code in the binary may have shorter jumps and other padding than the object has.
    fn check_layout(
        &self,
        code: &TrampolineCode,
        frame: &FrameDescription,
        has_cleanups: bool,
    ) -> Result<(), Refusal> {
        // One that says the same of all instructions fits any layout.
        let rules = frame.fde.bytes.get(FRAME_SIZE + 4..).unwrap_or_default();
        if rules.iter().all(|&byte| byte == 0) {
            return Ok(());
        }
        // Cleanups may be anywhere in the function.
        let end = if has_cleanups { u64::MAX } else { code.end };
        let located = &self.linked[code.unit].correlation.located;
        let moved = located
            .get(&code.function)
            .and_then(|found| found.first_moved(end));
        let Some((expected, found)) = moved else {
            return Ok(());
        };
        Err(Refusal::OtherLayout {
            function: code.name.clone(),
            binary: self.binary.file_name(),
            expected: Hex(expected),
            found: Hex(found),
        })
    }

    /// The old function's table of cleanups for its instructions in a trampoline: where it says
    /// nothing of where cleanups are counted from, that is where the frame begins; here it is the
    /// old function.
    fn old_cleanups(&mut self, table: &[u8], code: &TrampolineCode) -> Spot {
        let mut bytes = vec![PC_RELATIVE_WORD, 0, 0, 0, 0];
        bytes.extend_from_slice(table.get(1..).unwrap_or_default());
        let size = bytes.len() as u64;
        let start = self.draft.add(Area::ReadOnly, &bytes, size, 4);
        self.draft.fixup(Fixup {
            place: Spot {
                area: Area::ReadOnly,
                offset: start.offset + 1,
            },
            kind: RelocationKind::PcRelative32,
            target: object_target(&code.name, code.entry),
            addend: 0,
        });
        start
    }

    /// The field of a CIE for the routine that cleans up, and the routine's name.
    fn personality(
        &mut self,
        unit: usize,
        object: &Unit,
        frame: &FrameDescription,
        function: Spot,
    ) -> Result<Option<(String, Field)>, Refusal> {
        let Some(item) = object.item(frame.function) else {
            return Ok(None);
        };
        let reloc = match &*frame.cie.references {
            [] => return Ok(None),
            [reloc] if reloc.offset == 0 => reloc,
            _ => return Err(strange(&item.name)),
        };
        let name = match &reloc.referent {
            Referent::Item(id) => object.item(*id).map(|item| item.name.clone()),
            Referent::Undefined { name, .. } => Some(name.clone()),
        };
        let name = name.filter(|name| !name.is_empty());
        let (Some(name), Some(kind)) = (name, kind(reloc)) else {
            return Err(strange(&item.name));
        };
        let routine = name.strip_prefix(INDIRECT).unwrap_or(&name).to_owned();
        let by_name = Reloc {
            referent: Referent::Undefined {
                name: routine.clone(),
                weak: false,
            },
            ..reloc.clone()
        };
        let reference = Reference::new((unit, frame.function, item), &by_name, function);
        let target = match self.known(&reference, &routine) {
            Some(target) => target,
            None => self.import(&reference, &routine, false)?,
        };
        let is_indirect = routine != name;
        let key = SlotKey::Name(routine);
        let slot = self.slot(key.clone(), target);
        let target = match is_indirect {
            true => slot,
            // It may be anywhere, and only a jump to it is near.
            false => self.stub(key, FixupTarget::Spot(slot)),
        };
        let field = Field {
            place: usize::try_from(reloc.place).unwrap_or(usize::MAX),
            kind,
            target: FixupTarget::Spot(target),
            addend: 0,
        };
        Ok(Some((name, field)))
    }
}

/// A table of cleanups, and the field of an FDE for it.
struct Cleanups<'u> {
    table: ItemId,
    /// The table, and perhaps others after it.
    bytes: &'u [u8],
    field: Field,
}

fn cleanups<'u>(
    object: &'u Unit,
    frame: &FrameDescription,
) -> Result<Option<Cleanups<'u>>, Refusal> {
    let strange = || strange(object.item(frame.function).map_or("", |item| &item.name));
    let reloc = match &*frame.fde.references {
        [] => return Ok(None),
        [reloc] => reloc,
        _ => return Err(strange()),
    };
    let Referent::Item(id) = reloc.referent else {
        return Err(strange());
    };
    let (table, kind) = object.item(id).zip(kind(reloc)).ok_or_else(strange)?;
    let start = usize::try_from(reloc.offset).unwrap_or(usize::MAX);
    let bytes = table.bytes.get(start..).unwrap_or_default();
    // It is about the function from its start on, and names no types: so are all that C makes.
    let is_plain = table.kind == Kind::ReadOnly && table.relocations.is_empty();
    if !is_plain || !bytes.starts_with(&[OMITTED, OMITTED]) {
        return Err(strange());
    }
    let field = Field {
        place: usize::try_from(reloc.place).unwrap_or(usize::MAX),
        kind,
        target: FixupTarget::Spot(Spot {
            area: Area::ReadOnly,
            offset: 0,
        }),
        addend: reloc.offset,
    };
    Ok(Some(Cleanups {
        table: id,
        bytes,
        field,
    }))
}

fn strange(function: &str) -> Refusal {
    Refusal::ExceptionTable {
        function: function.to_owned(),
    }
}

fn kind(reloc: &Reloc) -> Option<RelocationKind> {
    Some(match reloc.r_type {
        elf::R_X86_64_PC32 => RelocationKind::PcRelative32,
        elf::R_X86_64_PC64 => RelocationKind::PcRelative64,
        elf::R_X86_64_32 => RelocationKind::Absolute32,
        elf::R_X86_64_32S => RelocationKind::Absolute32Signed,
        elf::R_X86_64_64 => RelocationKind::Absolute64,
        _ => return None,
    })
}

/// A section under construction.
#[derive(Default)]
struct Table {
    bytes: Vec<u8>,
    /// Where the CIEs are, by their bytes and personalities.
    common: HashMap<(Vec<u8>, Option<String>), usize>,
    fields: Vec<Field>,
}

/// Where an address has to be written.
struct Field {
    place: usize,
    kind: RelocationKind,
    target: FixupTarget,
    addend: i64,
}

impl Table {
    /// Adds an FDE for code that is at a distance from a spot, and its CIE if it is the first one
    /// with it; where the FDE is.
    fn add(
        &mut self,
        frame: &FrameDescription,
        personality: Option<(String, Field)>,
        cleanups: Option<Field>,
        (code, distance): (Spot, i64),
    ) -> usize {
        let (name, personality) = personality.unzip();
        let (bytes, fields) = (&mut self.bytes, &mut self.fields);
        let key = (frame.cie.bytes.clone(), name);
        let cie = *self.common.entry(key).or_insert_with(|| {
            let start = bytes.len();
            bytes.extend_from_slice(&frame.cie.bytes);
            fields.extend(personality.map(|field| field.moved_by(start)));
            start
        });
        let start = bytes.len();
        bytes.extend_from_slice(&frame.fde.bytes);
        fields.extend(cleanups.map(|field| field.moved_by(start)));
        fields.push(Field {
            place: start + FRAME_FUNCTION,
            kind: RelocationKind::PcRelative32,
            target: FixupTarget::Spot(code),
            addend: distance,
        });
        // An image has far less than 4 GiB.
        let back = (start + FRAME_ID - cie) as u32;
        if let Some(id) = bytes.get_mut(start + FRAME_ID..start + FRAME_FUNCTION) {
            id.copy_from_slice(&back.to_le_bytes());
        }
        start
    }
}

impl Field {
    fn moved_by(self, start: usize) -> Self {
        Self {
            place: start.saturating_add(self.place),
            ..self
        }
    }
}
