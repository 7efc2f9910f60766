//! Strings, constants and jump tables of a function: they are part of what its code is.

use object::elf;

use super::matching::{Class, Match};
use crate::binary::Binary;
use crate::refusal::Mismatch;
use crate::unit::{Item, ItemId, Referent, Unit};

/// Compares all content that a matched function refers to with what the binary has there.
pub(super) fn check(
    unit: &Unit,
    id: ItemId,
    binary: &Binary,
    found: &Match,
) -> Result<(), Mismatch> {
    for reloc in unit
        .item(id)
        .map(|item| item.relocations.as_slice())
        .unwrap_or_default()
    {
        let Referent::Item(target_id) = reloc.referent else {
            continue;
        };
        let Some(target) = unit.item(target_id).filter(|item| item.is_content()) else {
            continue;
        };
        let Some(base) = found
            .bindings
            .get(&(reloc.referent.clone(), Class::Address))
        else {
            continue;
        };
        let range = target.extent(reloc.offset);
        let checker = Checker {
            function: id,
            binary,
            found,
            target,
            base: *base,
        };
        if !checker.bytes_agree(&range) || !checker.labels_agree(&range) {
            let address = base.wrapping_add(range.start);
            let length = range.end.saturating_sub(range.start);
            return Err(Mismatch {
                address,
                offset: reloc.place,
                expected: shown(target.bytes_in(range)),
                found: shown(binary.bytes(address, length).unwrap_or_default()),
            });
        }
    }
    Ok(())
}

struct Checker<'a> {
    function: ItemId,
    binary: &'a Binary,
    found: &'a Match,
    target: &'a Item,
    /// Where the binary has the target item.
    base: u64,
}

impl Checker<'_> {
    fn bytes_agree(&self, range: &std::ops::Range<u64>) -> bool {
        let expected = self.target.bytes_in(range.clone());
        let address = self.base.wrapping_add(range.start);
        let Some(found) = self.binary.bytes(address, expected.len() as u64) else {
            return false;
        };
        let relocations = self.target.relocations_in(range.clone());
        let relocated = |offset: u64| {
            relocations.iter().any(|reloc| {
                let width = if reloc.r_type == elf::R_X86_64_64 {
                    8
                } else {
                    4
                };
                (reloc.place..reloc.place + width).contains(&offset)
            })
        };
        (range.start..)
            .zip(expected.iter().zip(found))
            .all(|(at, (e, f))| e == f || relocated(at))
    }

    /// A jump table leads to the same instructions.
    fn labels_agree(&self, range: &std::ops::Range<u64>) -> bool {
        self.target
            .relocations_in(range.clone())
            .iter()
            .all(|reloc| {
                if reloc.referent != Referent::Item(self.function) {
                    return true;
                }
                let place = self.base.wrapping_add(reloc.place);
                let start = self.base.wrapping_add(range.start);
                // An entry of a relative table is a distance from the table's start.
                let (label, address) = match reloc.r_type {
                    elf::R_X86_64_PC32 => {
                        let distance = self.binary.field(place).map(|f| i64::from(f.cast_signed()));
                        let in_table = (reloc.place - range.start).cast_signed();
                        let address = distance.map(|d| start.wrapping_add_signed(d));
                        (reloc.offset.wrapping_sub(in_table), address)
                    }
                    elf::R_X86_64_64 => (reloc.offset, self.binary.pointer(place)),
                    _ => return true,
                };
                let expected = self.found.instructions.get(&label.cast_unsigned());
                expected.is_some() && expected.copied() == address
            })
    }
}

/// Text as text, other bytes in hexadecimal, long ones cut.
fn shown(bytes: &[u8]) -> String {
    const LIMIT: usize = 60;
    let cut = bytes.get(..LIMIT).unwrap_or(bytes);
    match cut.split_last() {
        Some((0, text)) if !text.is_empty() && text.iter().all(|b| (b' '..=b'~').contains(b)) => {
            format!("{:?}", String::from_utf8_lossy(text))
        }
        _ => cut
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<Vec<_>>()
            .join(" "),
    }
}
