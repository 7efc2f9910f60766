//! Which binary gets which changed objects, and what of the fix is then in the patch.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use engraft_patch::Object;

use crate::binary::Binary;
use crate::build::{ChangedObject, Unplaced};
use crate::candidates::ChangedUnit;
use crate::compare::Comparison;
use crate::error::BuildError;
use crate::image::{self, Placed};
use crate::layouts::{Harmless, LayoutChange};
use crate::place::{Found, Placement, may_be_in, place};
use crate::refusal::Refusal;

/// What goes into the patch, and what does not.
pub(crate) struct Assembled {
    pub(crate) objects: Vec<(Object, ChangedObject)>,
    pub(crate) unplaced: Vec<Unplaced>,
    /// Types whose changed layout does no harm.
    pub(crate) harmless: BTreeSet<Harmless>,
    /// Types whose changed layout was accepted.
    pub(crate) accepted: BTreeSet<String>,
}

/// Puts the changed objects into the binaries that contain them.
pub(crate) fn assemble(
    units: &[ChangedUnit],
    binaries: &[Binary],
    accept: &[String],
) -> Result<Assembled, BuildError> {
    let mut objects = Vec::new();
    let mut refusals = Vec::new();
    let mut covered = Covered::default();
    let mut types = ChangedTypes::default();
    for binary in binaries {
        let Placements { placed, refused } = Placements::new(units, binary);
        refusals.extend(refused);
        for (unit, object) in &placed {
            covered.add(unit, object.comparison);
            types.add(unit);
        }
        let placed: Vec<_> = placed.into_iter().map(|(_, object)| object).collect();
        let changes_code = placed
            .iter()
            .any(|object| object.changed().next().is_some());
        if changes_code && refusals.is_empty() {
            match image::build(binary, &placed) {
                Ok(object) => objects.push((object, changed_object(binary, &placed))),
                Err(reasons) => refusals.extend(reasons),
            }
        }
    }
    let accepted = types.accept(accept);
    refusals.extend(types.refusals());
    if !refusals.is_empty() {
        return Err(BuildError::refused(refusals));
    }
    Ok(Assembled {
        objects,
        unplaced: covered.unplaced(units),
        harmless: types.harmless,
        accepted,
    })
}

/// Types that the objects in the patch have in another form than memory has.
#[derive(Default)]
struct ChangedTypes {
    changes: BTreeMap<String, LayoutChange>,
    harmless: BTreeSet<Harmless>,
}

impl ChangedTypes {
    fn add(&mut self, unit: &ChangedUnit) {
        self.harmless.extend(unit.layouts.harmless.iter().cloned());
        for change in &unit.layouts.changes {
            let known = self.changes.entry(change.name.clone());
            let known = known.or_insert_with(|| change.clone());
            known.users.extend(change.users.iter().cloned());
        }
    }

    /// Takes away those that the author wants to be left alone. Returns their names.
    fn accept(&mut self, accept: &[String]) -> BTreeSet<String> {
        let means = |name: &str| {
            let short = name.split_once(' ').map_or(name, |(_, short)| short);
            accept
                .iter()
                .any(|wanted| wanted == name || wanted == short)
        };
        let accepted: BTreeSet<_> = self
            .changes
            .keys()
            .filter(|name| means(name))
            .cloned()
            .collect();
        self.changes.retain(|name, _| !accepted.contains(name));
        accepted
    }

    fn refusals(&mut self) -> Vec<Refusal> {
        let changes = std::mem::take(&mut self.changes).into_values();
        changes
            .map(|change| Refusal::ChangedLayout {
                name: change.name,
                file: change.file,
                line: change.line,
                differences: change.differences,
                users: change.users.into_iter().collect(),
            })
            .collect()
    }
}

/// What became of all changed objects in one binary.
struct Placements<'a> {
    placed: Vec<(&'a ChangedUnit, Placed<'a>)>,
    refused: Vec<Refusal>,
}

impl<'a> Placements<'a> {
    /// Each place in the binary belongs to one object. A source may have been compiled more than once, with other
    /// options for another binary or with other macros for the same one; two sources may have a function that is
    /// alike; and of inline functions in C++ the linker keeps one copy. So the object that fits best comes first, and
    /// one that has no place of its own is not there.
    fn new(units: &'a [ChangedUnit], binary: &Binary) -> Self {
        let mut all: Vec<(&ChangedUnit, Found<'a>)> = units
            .iter()
            .filter(|unit| !unit.comparison.original.is_empty())
            .map(|unit| (unit, place(&unit.comparison, binary)))
            .collect();
        all.sort_by_key(|(_, found)| Reverse(fit(found)));
        let mut placements = Self {
            placed: Vec::new(),
            refused: Vec::new(),
        };
        let mut taken = BTreeSet::new();
        let mut absent = Vec::new();
        for (unit, found) in all {
            let has_place = found.located.is_empty() || !found.located.is_subset(&taken);
            let is_there = has_place && !matches!(found.placement, Placement::Absent);
            if let Some(option) = unit.instrumentation.as_ref().filter(|_| is_there) {
                taken.extend(found.located);
                placements.refused.push(Refusal::Instrumented {
                    functions: unit.comparison.names_of_changed(),
                    source_file: unit.comparison.original.source.clone(),
                    option: option.clone(),
                });
                continue;
            }
            match found.placement {
                Placement::Placed(mut object) if has_place => {
                    object.elsewhere = elsewhere(&object, &taken);
                    taken.extend(found.located);
                    placements.placed.push((unit, object));
                }
                Placement::Refused(reasons) if has_place => {
                    taken.extend(found.located);
                    placements.refused.extend(reasons);
                }
                _ => absent.push((unit, found.missing)),
            }
        }
        // A new source file is for every binary that has a use for it: what nothing refers to stays out.
        for unit in units
            .iter()
            .filter(|unit| unit.comparison.original.is_empty())
        {
            placements
                .placed
                .push((unit, Placed::new(&unit.comparison)));
        }
        for (unit, missing) in absent {
            placements
                .refused
                .extend(unrecognised(unit, missing, binary, &taken));
        }
        placements
    }
}

/// What is there comes first, then what is there with more of its code.
fn fit(found: &Found<'_>) -> (bool, u64, usize) {
    let is_there = !matches!(found.placement, Placement::Absent);
    let (located, total) = found.coverage;
    let per_mille = located.saturating_mul(1000) / total.max(1);
    (is_there, per_mille, found.located.len())
}

/// Changed functions of an object whose places belong to objects before it.
fn elsewhere(object: &Placed<'_>, taken: &BTreeSet<u64>) -> BTreeSet<crate::unit::ItemId> {
    let located = &object.correlation.located;
    let is_taken = |id: &&crate::unit::ItemId| {
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

/// Functions of an object that is not in the binary as it compiles here, where the binary has something by their
/// names that belongs to no other object, and seems to have the whole object: it was compiled in another way.
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

/// What of the fix is in the patch, by source file: names.
#[derive(Default)]
struct Covered<'a> {
    names: BTreeMap<&'a Path, BTreeSet<String>>,
}

impl<'a> Covered<'a> {
    fn add(&mut self, unit: &'a ChangedUnit, comparison: &Comparison) {
        let names = self.names.entry(&unit.source).or_default();
        names.extend(comparison.names_of_changed());
    }

    /// What the fix changes and the patch does not. Of a source that was compiled several times, one object for
    /// each function is enough: others are for binaries that were not named.
    fn unplaced(&self, units: &[ChangedUnit]) -> Vec<Unplaced> {
        let mut unplaced: BTreeMap<&Path, Unplaced> = BTreeMap::new();
        for unit in units {
            let covered = self.names.get(unit.source.as_path());
            let mut names = unit.comparison.names_of_changed();
            names.retain(|name| !covered.is_some_and(|covered| covered.contains(name)));
            if names.is_empty() {
                continue;
            }
            let entry = unplaced.entry(&unit.source).or_insert_with(|| Unplaced {
                source_file: unit.comparison.original.source.clone(),
                functions: Vec::new(),
                holders: Vec::new(),
            });
            names.retain(|name| !entry.functions.contains(name));
            entry.functions.extend(names);
        }
        unplaced.into_values().collect()
    }
}

/// Notes which files of a build tree hold what is in none of the named binaries.
pub(crate) fn find_holders(
    unplaced: &mut [Unplaced],
    units: &[ChangedUnit],
    files: &[PathBuf],
    tree: &Path,
) {
    for file in files {
        let Ok(binary) = Binary::read_any(file) else {
            continue;
        };
        let inside = file.strip_prefix(tree).unwrap_or(file);
        for entry in &mut *unplaced {
            let is_named =
                |unit: &&ChangedUnit| unit.comparison.original.source == entry.source_file;
            let source = units.iter().find(is_named).map(|unit| &unit.source);
            let mut own = units.iter().filter(|unit| Some(&unit.source) == source);
            let holds = own.any(|unit| {
                !matches!(
                    place(&unit.comparison, &binary).placement,
                    Placement::Absent
                )
            });
            if holds {
                entry.holders.push(inside.to_owned());
            }
        }
    }
}

fn changed_object(binary: &Binary, placed: &[Placed<'_>]) -> ChangedObject {
    let (mut changed, mut new) = (Vec::new(), Vec::new());
    for unit in placed {
        let comparison = unit.comparison;
        let source = &comparison.original.source;
        let names = unit.changed().filter_map(|id| comparison.original.item(id));
        changed.extend(names.map(|item| (item.name.as_str(), source.as_path())));
        let names = comparison
            .new
            .iter()
            .filter_map(|&id| comparison.fixed.item(id));
        new.extend(names.map(|item| (item.name.as_str(), source.as_path())));
    }
    ChangedObject {
        binary: binary.path.clone(),
        changed: told_apart(&changed),
        new: told_apart(&new),
    }
}

/// Names, with the source files of those that are not the only ones of their name.
fn told_apart(names: &[(&str, &Path)]) -> Vec<String> {
    let name = |&(name, source): &(&str, &Path)| {
        let is_only = names.iter().filter(|(other, _)| *other == name).count() == 1;
        match is_only {
            true => name.to_owned(),
            false => format!("{name} ({})", source.display()),
        }
    };
    names.iter().map(name).collect()
}
