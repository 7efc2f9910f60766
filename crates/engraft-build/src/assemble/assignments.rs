//! Which changed object gets which place in a binary.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::presence::{Found, Presence, find_unit, may_be_in};
use crate::binary::Binary;
use crate::candidates::ChangedUnit;
use crate::image::LinkedUnit;
use crate::refusal::Refusal;
use crate::unit::ItemId;

/// What became of all changed objects in one binary.
pub(super) struct Assignments<'a> {
    pub(super) linked: Vec<(&'a ChangedUnit, LinkedUnit<'a>)>,
    pub(super) refused: Vec<Refusal>,
}

impl<'a> Assignments<'a> {
    /// Each place in the binary belongs to one object. A source may have been compiled more than
    /// once, with other options for another binary or with other macros for the same one; two
    /// sources may have a function that is alike; and of inline functions in C++ the linker keeps
    /// one copy. So the object that fits best is assigned first, and an object that finds all its
    /// places taken is not in the binary.
    pub(super) fn new(units: &'a [ChangedUnit], binary: &Binary) -> Self {
        let mut all: Vec<(&ChangedUnit, Found<'a>)> = units
            .iter()
            .filter(|unit| !unit.comparison.original.is_empty())
            .map(|unit| (unit, find_unit(&unit.comparison, binary)))
            .collect();
        all.sort_by_key(|(_, found)| Reverse(fit(found)));
        let mut assignments = Self {
            linked: Vec::new(),
            refused: Vec::new(),
        };
        let mut taken = BTreeSet::new();
        let mut absent = Vec::new();
        for (unit, found) in all {
            let has_place = found.located.is_empty() || !found.located.is_subset(&taken);
            let is_there = has_place && !matches!(found.presence, Presence::Absent);
            if let Some(option) = unit.instrumentation.as_ref().filter(|_| is_there) {
                taken.extend(found.located);
                assignments.refused.push(Refusal::Instrumented {
                    functions: unit.comparison.names_of_changed(),
                    source_file: unit.comparison.original.source.clone(),
                    option: option.clone(),
                });
                continue;
            }
            match found.presence {
                Presence::Present(mut object) if has_place => {
                    object.elsewhere = elsewhere(&object, &taken);
                    taken.extend(found.located);
                    assignments.linked.push((unit, object));
                }
                Presence::Refused(reasons) if has_place => {
                    taken.extend(found.located);
                    assignments.refused.extend(reasons);
                }
                _ => absent.push((unit, found.missing)),
            }
        }
        // A new source file is for every binary that has a use for it: what nothing refers to stays
        // out.
        for unit in units
            .iter()
            .filter(|unit| unit.comparison.original.is_empty())
        {
            assignments
                .linked
                .push((unit, LinkedUnit::new(&unit.comparison)));
        }
        for (unit, missing) in absent {
            assignments
                .refused
                .extend(unrecognised(unit, missing, binary, &taken));
        }
        assignments
    }
}

/// What is there comes first, then what is there with more of its code.
fn fit(found: &Found<'_>) -> (bool, u64, usize) {
    let is_there = !matches!(found.presence, Presence::Absent);
    let (located, total) = found.coverage;
    let per_mille = located.saturating_mul(1000) / total.max(1);
    (is_there, per_mille, found.located.len())
}

/// Changed functions of an object whose places belong to objects before it.
fn elsewhere(object: &LinkedUnit<'_>, taken: &BTreeSet<u64>) -> BTreeSet<ItemId> {
    let located = &object.correlation.located;
    let is_taken = |id: &&ItemId| {
        located
            .get(id)
            .is_some_and(|found| taken.contains(&found.address))
    };
    object
        .comparison
        .changed
        .iter()
        .filter(is_taken)
        .copied()
        .collect()
}

/// Functions of an object that is not in the binary as it compiles here, where the binary has
/// something by their names that belongs to no other object, and seems to have the whole object: it
/// was compiled in another way.
fn unrecognised(
    unit: &ChangedUnit,
    missing: Vec<(Refusal, Vec<u64>)>,
    binary: &Binary,
    taken: &BTreeSet<u64>,
) -> Vec<Refusal> {
    let is_free = |places: &[u64]| places.iter().any(|place| !taken.contains(place));
    let free = missing.into_iter().filter(|(_, places)| is_free(places));
    let free: Vec<_> = free.map(|(refusal, _)| refusal).collect();
    match free.is_empty() || !may_be_in(&unit.comparison, binary) {
        true => Vec::new(),
        false => free,
    }
}
