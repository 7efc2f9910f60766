//! Call frame information: how the frames of an object's functions are unwound.
//!
//! The entries of `.eh_frame` are kept as they are; only what they refer to is resolved: the
//! function, and where it has something to clean up, the routine that does so (the personality) and
//! the function's table of cleanups.

use std::collections::BTreeMap;
use std::ops::Range;

use object::read::elf::{ElfFile64, ElfSymbol64};
use object::{
    LittleEndian, Object as _, ObjectSection as _, RelocationFlags, RelocationTarget, elf,
};

use super::item::ItemId;
use super::reloc::{Flow, Referent, Reloc};

/// Offset of the id of an entry, which for an FDE is the distance back to its CIE.
pub(crate) const ID: usize = 4;
/// Offset of the address of the function in an FDE: a PC-relative word,
pub(crate) const FUNCTION: usize = 8;
/// and of its size, another word.
pub(crate) const SIZE: usize = 12;

/// An FDE and its CIE.
#[derive(Debug, Clone)]
pub(crate) struct FrameDescription {
    /// The function whose code it describes,
    pub(crate) function: ItemId,
    /// and where in it that code begins.
    pub(crate) offset: i64,
    /// The whole FDE. It refers to nothing but the function and its table of cleanups.
    pub(crate) fde: EhFrameEntry,
    /// The whole CIE. It refers to nothing but the personality.
    pub(crate) cie: EhFrameEntry,
}

/// An entry of `.eh_frame`.
#[derive(Debug, Clone)]
pub(crate) struct EhFrameEntry {
    pub(crate) bytes: Vec<u8>,
    /// What it refers to besides the function.
    pub(crate) references: Vec<Reloc>,
}

/// The frames of an object.
#[derive(Debug, Default)]
pub(super) struct FrameDescriptions {
    pub(super) known: Vec<FrameDescription>,
    /// Functions whose frames are described in another way.
    pub(super) others: Vec<ItemId>,
}

type Elf<'d> = ElfFile64<'d, LittleEndian>;
type Relocations = BTreeMap<u64, object::Relocation>;

/// Finds the item that a symbol and an offset mean.
pub(super) type Resolve<'r> =
    dyn Fn(&ElfSymbol64<'_, '_, LittleEndian>, i64) -> Result<(Referent, i64), object::Error> + 'r;

/// Reads the frames of all functions.
pub(super) fn frames(
    elf: &Elf<'_>,
    resolve: &Resolve<'_>,
) -> Result<FrameDescriptions, object::Error> {
    let mut frames = FrameDescriptions::default();
    for section in elf.sections() {
        if section.name()? != ".eh_frame" {
            continue;
        }
        let reader = Reader {
            elf,
            data: section.data()?,
            relocations: section.relocations().collect(),
            resolve,
        };
        let entries = entries(reader.data);
        for fde in &entries {
            reader.read(fde, &entries, &mut frames)?;
        }
    }
    Ok(frames)
}

/// Reads one section.
struct Reader<'r, 'd> {
    elf: &'r Elf<'d>,
    data: &'d [u8],
    relocations: Relocations,
    resolve: &'r Resolve<'r>,
}

impl Reader<'_, '_> {
    /// Adds the frame of an entry, if it is an FDE.
    fn read(
        &self,
        fde: &Range<usize>,
        entries: &[Range<usize>],
        frames: &mut FrameDescriptions,
    ) -> Result<(), object::Error> {
        let Some(distance @ 1..) = word(self.data, fde.start + ID) else {
            return Ok(());
        };
        let mut references = self.references(fde)?;
        let is_function = |reloc: &Reloc| reloc.place == FUNCTION as u64;
        let Some(first) = references.iter().position(is_function) else {
            return Ok(());
        };
        let own = references.remove(first);
        let Referent::Item(function) = own.referent else {
            return Ok(());
        };
        let start = usize::try_from(distance)
            .ok()
            .and_then(|distance| (fde.start + ID).checked_sub(distance));
        let cie = entries.iter().find(|cie| Some(cie.start) == start);
        let cie = match cie {
            Some(cie) => Some((cie, self.references(cie)?)),
            None => None,
        };
        match cie {
            Some((cie, common)) if own.r_type == elf::R_X86_64_PC32 => {
                frames.known.push(FrameDescription {
                    function,
                    offset: own.offset,
                    fde: self.entry(fde, references),
                    cie: self.entry(cie, common),
                })
            }
            _ => frames.others.push(function),
        }
        Ok(())
    }

    fn entry(&self, range: &Range<usize>, references: Vec<Reloc>) -> EhFrameEntry {
        EhFrameEntry {
            bytes: self.data.get(range.clone()).unwrap_or_default().to_vec(),
            references,
        }
    }

    /// What an entry refers to.
    fn references(&self, entry: &Range<usize>) -> Result<Vec<Reloc>, object::Error> {
        let inside = self.relocations.range(entry.start as u64..entry.end as u64);
        let mut references = Vec::new();
        for (&place, relocation) in inside {
            let (RelocationFlags::Elf { r_type }, RelocationTarget::Symbol(symbol)) =
                (relocation.flags(), relocation.target())
            else {
                continue;
            };
            let symbol = self.elf.symbol_by_index(symbol)?;
            let (referent, offset) = (self.resolve)(&symbol, relocation.addend())?;
            references.push(Reloc {
                place: place - entry.start as u64,
                r_type,
                referent,
                offset,
                tail: 0,
                flow: Flow::Value,
                is_local: false,
            });
        }
        Ok(references)
    }
}

/// The entries of a section, up to one that ends it or is broken.
fn entries(data: &[u8]) -> Vec<Range<usize>> {
    let mut entries = Vec::new();
    let mut start = 0;
    // A length of 0 ends the section, and 0xffffffff is an escape for larger ones.
    while let Some(length @ 4..=0xffff_fffe) = word(data, start) {
        let end = usize::try_from(length)
            .ok()
            .and_then(|length| start.checked_add(ID)?.checked_add(length))
            .filter(|&end| end <= data.len());
        let Some(end) = end else {
            return entries;
        };
        entries.push(start..end);
        start = end;
    }
    entries
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    let field = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(field.try_into().ok()?))
}
