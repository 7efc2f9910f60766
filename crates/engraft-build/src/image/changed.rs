//! Changed functions: their old parts, their new code and their trampolines.

use std::collections::{BTreeMap, HashMap};

use engraft_patch::{Function, ImageAddress, LinkAddress, OldPart, Segment, Trampoline};

use super::builder::Builder;
use super::draft::Spot;
use super::entry::{self, MovedCode};
use super::linked_unit::LinkedUnit;
use crate::compare::cold_parts;
use crate::refusal::Refusal;
use crate::unit::{Item, ItemId};

impl Builder<'_> {
    /// A changed function: its old parts, and its new code put into the image.
    pub(super) fn function(
        &mut self,
        unit: usize,
        original: ItemId,
        removed: &BTreeMap<ItemId, ItemId>,
    ) -> Result<Changed, Refusal> {
        let LinkedUnit {
            comparison,
            correlation,
            ..
        } = &self.linked[unit];
        let name = item_name(&comparison.original.items, original);
        let not_found = |function: String| Refusal::FunctionNotInBinary {
            function,
            source_file: comparison.original.source.clone(),
            binary: self.binary.file_name(),
        };
        let cold = cold_parts(&comparison.original);
        let mut ids = vec![original];
        let gone = removed
            .iter()
            .filter(|&(_, &owner)| owner == original)
            .map(|(&id, _)| id);
        ids.extend(gone.filter(|id| correlation.located.contains_key(id)));
        let colds: Vec<_> = ids
            .iter()
            .filter_map(|id| cold.get(id))
            .flatten()
            .copied()
            .collect();
        ids.extend(colds);
        let mut parts = Vec::new();
        for id in ids {
            let found = correlation.located.get(&id);
            let code = found.and_then(|found| self.binary.bytes(found.address, found.size));
            let (Some(found), Some(code)) = (found, code) else {
                return Err(not_found(item_name(&comparison.original.items, id)));
            };
            parts.push(OldPart {
                address: LinkAddress(found.address),
                code: code.to_vec(),
            });
        }
        if let Some(entry) = parts.first_mut() {
            entry::extend(self.binary, entry);
        }
        let site = entry::check(&name, &parts)?;
        let ranges = parts.iter();
        let ranges = ranges.map(|part| part.address.0..part.address.0 + part.code.len() as u64);
        self.replaced.extend(ranges);
        let entry = parts.first().ok_or_else(|| not_found(name.clone()))?;
        let moved = MovedCode::new(&name, entry, site)?;
        let fixed = comparison
            .pairs
            .fixed(original)
            .ok_or_else(|| not_found(name.clone()))?;
        let new_size = comparison.fixed.item(fixed).map_or(0, |item| item.size);
        let entry = self.include(unit, fixed);
        let new_entry = ImageAddress {
            segment: Segment::Text,
            offset: entry.offset,
        };
        Ok(Changed {
            unit,
            original,
            name,
            parts,
            new_entry,
            new_size,
            moved,
        })
    }

    /// Puts the first instructions of an old function into the image.
    fn trampoline(&mut self, function: &str, moved: &MovedCode) -> (Spot, u64) {
        let mut thunks = HashMap::new();
        for called in moved.called() {
            match self.thunk_of_moved(function, called) {
                Ok(Some(thunk)) => drop(thunks.insert(called, thunk)),
                Ok(None) => {}
                Err(refusal) => self.refusals.push(refusal),
            }
        }
        moved.place(&mut self.draft, &thunks)
    }
}

/// A changed function whose new code is in the image.
pub(super) struct Changed {
    unit: usize,
    original: ItemId,
    name: String,
    parts: Vec<OldPart>,
    new_entry: ImageAddress,
    new_size: u64,
    moved: MovedCode,
}

impl Changed {
    /// Adds its trampoline, which stands after all new code.
    pub(super) fn finish(
        self,
        builder: &mut Builder<'_>,
        trampolines: &mut Vec<TrampolineCode>,
    ) -> Function {
        let (spot, size) = builder.trampoline(&self.name, &self.moved);
        trampolines.push(TrampolineCode {
            unit: self.unit,
            function: self.original,
            name: self.name.clone(),
            spot,
            offset: self.moved.start(),
            end: self.moved.end(),
            size: self.moved.covered(),
            entry: self
                .parts
                .first()
                .map_or(LinkAddress(0), |part| part.address),
        });
        Function {
            name: self.name,
            parts: self.parts,
            new_entry: self.new_entry,
            new_size: self.new_size,
            trampoline: Trampoline {
                entry: builder.draft.address(spot),
                size,
            },
        }
    }
}

/// A trampoline in the image: the first instructions of an old function.
pub(super) struct TrampolineCode {
    pub(super) unit: usize,
    pub(super) function: ItemId,
    pub(super) name: String,
    /// Where the trampoline is in the image.
    pub(super) spot: Spot,
    /// Where its first instruction was, from the function's entry.
    pub(super) offset: u64,
    /// The offset in the function from which on no frame matters to the trampoline.
    pub(super) end: u64,
    /// Its size in bytes, with the jump to the rest.
    pub(super) size: u64,
    /// The function's entry.
    pub(super) entry: LinkAddress,
}

/// Removed functions may still be running: each belongs to a changed function that used it,
/// directly or through another removed one.
pub(super) fn owners_of_removed(object: &LinkedUnit<'_>) -> BTreeMap<ItemId, ItemId> {
    let comparison = object.comparison;
    let original = &comparison.original;
    let mut owners = BTreeMap::new();
    let mut wanted: Vec<(ItemId, ItemId)> = comparison.changed.iter().map(|&id| (id, id)).collect();
    let cold = cold_parts(original);
    while let Some((user, owner)) = wanted.pop() {
        let parts = cold.get(&user).into_iter().flatten().chain([&user]);
        for item in parts.filter_map(|&id| original.item(id)) {
            for id in original.referred(item) {
                if comparison.removed.contains(&id) && !owners.contains_key(&id) {
                    owners.insert(id, owner);
                    wanted.push((id, owner));
                }
            }
        }
    }
    owners
}

fn item_name(items: &[Item], id: ItemId) -> String {
    items
        .get(id.0)
        .map(|item| item.name.clone())
        .unwrap_or_default()
}
