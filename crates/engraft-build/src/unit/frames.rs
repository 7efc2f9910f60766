//! Call frame information: how the frames of an object's functions are unwound.
//!
//! The entries of `.eh_frame` are kept as they are; only what they refer to is resolved. An entry that refers to more
//! than its function (a personality routine, a table of cleanups) is left out: frames of that function cannot be
//! walked then, which is better than walking them without what the entry wanted.

use std::collections::BTreeMap;
use std::ops::Range;

use engraft_patch::RelocationKind;
use object::read::elf::{ElfFile64, ElfSymbol64};
use object::{
    LittleEndian, Object as _, ObjectSection as _, RelocationFlags, RelocationTarget, elf,
};

use super::{ItemId, Referent};

/// Offset of the id of an entry, which for an FDE is the distance back to its CIE.
pub(crate) const ID: usize = 4;
/// Offset of the address of the function in an FDE.
pub(crate) const FUNCTION: usize = 8;

/// An FDE and its CIE.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    /// The function whose code it describes,
    pub(crate) function: ItemId,
    /// and where in it that code begins.
    pub(crate) offset: i64,
    /// How the address of the function is written into the FDE.
    pub(crate) kind: RelocationKind,
    /// The whole FDE.
    pub(crate) fde: Vec<u8>,
    /// The whole CIE.
    pub(crate) cie: Vec<u8>,
}

type Elf<'d> = ElfFile64<'d, LittleEndian>;
type Relocations = BTreeMap<u64, object::Relocation>;

/// Reads the frames of all functions. `resolve` finds the item that a symbol and an offset mean.
pub(super) fn frames<'d>(
    elf: &Elf<'d>,
    resolve: impl for<'f> Fn(
        &ElfSymbol64<'d, 'f, LittleEndian>,
        i64,
    ) -> Result<(Referent, i64), object::Error>,
) -> Result<Vec<Frame>, object::Error> {
    let mut frames = Vec::new();
    for section in elf.sections() {
        if section.name()? != ".eh_frame" {
            continue;
        }
        let data = section.data()?;
        let relocations: Relocations = section.relocations().collect();
        let entries = entries(data);
        for entry in &entries {
            let Some(plain) = plain(data, entry, &entries, &relocations) else {
                continue;
            };
            let symbol = elf.symbol_by_index(plain.symbol)?;
            if let (Referent::Item(function), offset) = resolve(&symbol, plain.addend)? {
                frames.push(Frame {
                    function,
                    offset,
                    kind: plain.kind,
                    fde: bytes(data, entry).to_vec(),
                    cie: bytes(data, plain.cie).to_vec(),
                });
            }
        }
    }
    Ok(frames)
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

/// An FDE that refers to nothing but its function.
struct Plain<'e> {
    symbol: object::SymbolIndex,
    addend: i64,
    kind: RelocationKind,
    cie: &'e Range<usize>,
}

fn plain<'e>(
    data: &[u8],
    entry: &Range<usize>,
    entries: &'e [Range<usize>],
    relocations: &Relocations,
) -> Option<Plain<'e>> {
    let id = word(data, entry.start.checked_add(ID)?)?;
    // Not a CIE.
    let distance = usize::try_from(id).ok().filter(|&id| id != 0)?;
    let start = (entry.start + ID).checked_sub(distance)?;
    let cie = entries.iter().find(|cie| cie.start == start)?;
    let in_entry = |range: &Range<usize>| relocations.range(range.start as u64..range.end as u64);
    if word(data, start + ID)? != 0 || in_entry(cie).next().is_some() {
        return None;
    }
    let mut references = in_entry(entry);
    let (&place, relocation) = references.next()?;
    if place != (entry.start + FUNCTION) as u64 || references.next().is_some() {
        return None;
    }
    let kind = match relocation.flags() {
        RelocationFlags::Elf {
            r_type: elf::R_X86_64_PC32,
        } => RelocationKind::PcRelative32,
        RelocationFlags::Elf {
            r_type: elf::R_X86_64_PC64,
        } => RelocationKind::PcRelative64,
        _ => return None,
    };
    let RelocationTarget::Symbol(symbol) = relocation.target() else {
        return None;
    };
    let addend = relocation.addend();
    Some(Plain {
        symbol,
        addend,
        kind,
        cie,
    })
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    let field = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(field.try_into().ok()?))
}

fn bytes<'d>(data: &'d [u8], range: &Range<usize>) -> &'d [u8] {
    data.get(range.clone()).unwrap_or_default()
}
