//! Which binary gets which changed objects.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use engraft_patch::Object;

use crate::binary::Binary;
use crate::build::{ChangedObject, Unplaced};
use crate::compare::Comparison;
use crate::error::BuildError;
use crate::image::{self, Placed};
use crate::place::{Placement, place};

/// What goes into the patch, and what does not.
pub(crate) struct Assembled {
    pub(crate) objects: Vec<(Object, ChangedObject)>,
    pub(crate) unplaced: Vec<Unplaced>,
}

/// Puts the changed objects, each with the source file it was compiled from, into the binaries that contain them.
pub(crate) fn assemble(
    comparisons: &[(PathBuf, Comparison)],
    binaries: &[Binary],
) -> Result<Assembled, BuildError> {
    let mut objects = Vec::new();
    let mut refusals = Vec::new();
    let mut absences = Vec::new();
    let mut placed_sources = BTreeSet::new();
    for binary in binaries {
        let mut placed = Vec::new();
        for (source, placement) in placements(comparisons, binary) {
            match placement {
                Placement::Placed(object) => {
                    placed_sources.insert(source);
                    placed.push(object);
                }
                Placement::Refused(reasons) => refusals.extend(reasons),
                Placement::Absent(reasons) => absences.extend(reasons),
            }
        }
        let changes_code = placed
            .iter()
            .any(|object| !object.comparison.changed.is_empty());
        if changes_code && refusals.is_empty() {
            match image::build(binary, &placed) {
                Ok(object) => objects.push((object, changed_object(binary, &placed))),
                Err(reasons) => refusals.extend(reasons),
            }
        }
    }
    if !refusals.is_empty() {
        return Err(BuildError::Refused { refusals });
    }
    if objects.is_empty() && !absences.is_empty() {
        return Err(BuildError::Refused { refusals: absences });
    }
    Ok(Assembled {
        objects,
        unplaced: unplaced(comparisons, &placed_sources),
    })
}

/// What became of the changed objects in a binary.
///
/// A source may have been compiled more than once: with other options for a static library, which is no business
/// of this binary, or with other macros for the same binary. So of objects from one source that claim the same code
/// only the one that fits best counts.
fn placements<'a>(
    comparisons: &'a [(PathBuf, Comparison)],
    binary: &Binary,
) -> Vec<(&'a PathBuf, Placement<'a>)> {
    let mut all: Vec<_> = comparisons
        .iter()
        .map(|(source, comparison)| (source, place(comparison, binary)))
        .collect();
    all.sort_by_key(|(_, (placement, located))| {
        Reverse((matches!(placement, Placement::Placed(_)), located.len()))
    });
    let mut taken: BTreeMap<&PathBuf, BTreeSet<u64>> = BTreeMap::new();
    let mut chosen = Vec::new();
    for (source, (placement, located)) in all {
        let taken = taken.entry(source).or_default();
        let shared = located.intersection(taken).count();
        if shared == 0 || shared * 2 < located.len() {
            taken.extend(located);
            chosen.push((source, placement));
        }
    }
    chosen
}

fn unplaced(comparisons: &[(PathBuf, Comparison)], placed: &BTreeSet<&PathBuf>) -> Vec<Unplaced> {
    let mut unplaced = BTreeMap::new();
    for (source, comparison) in comparisons {
        if !comparison.changed.is_empty() && !placed.contains(source) {
            let changed = comparison.changed.iter();
            let items = changed.filter_map(|&id| comparison.original.item(id));
            let names: Vec<_> = items.map(|item| item.name.clone()).collect();
            unplaced.insert(comparison.original.source.clone(), names);
        }
    }
    let unplaced = unplaced.into_iter();
    unplaced
        .map(|(source_file, functions)| Unplaced {
            source_file,
            functions,
        })
        .collect()
}

fn changed_object(binary: &Binary, placed: &[Placed<'_>]) -> ChangedObject {
    let mut object = ChangedObject {
        binary: binary.path.clone(),
        changed: Vec::new(),
        new: Vec::new(),
    };
    for Placed { comparison, .. } in placed {
        let changed = comparison
            .changed
            .iter()
            .filter_map(|&id| comparison.original.item(id));
        object.changed.extend(changed.map(|item| item.name.clone()));
        let new = comparison
            .new
            .iter()
            .filter_map(|&id| comparison.fixed.item(id));
        object.new.extend(new.map(|item| item.name.clone()));
    }
    object
}
