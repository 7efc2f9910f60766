//! What of the fix is in the patch, and which binaries have the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::presence::{Presence, find_unit};
use crate::binary::Binary;
use crate::candidates::ChangedUnit;
use crate::compare::Comparison;
use crate::request::MissingSource;

/// What of the fix is in the patch, by source file: names.
#[derive(Default)]
pub(super) struct Covered<'a> {
    names: BTreeMap<&'a Path, BTreeSet<String>>,
}

impl<'a> Covered<'a> {
    pub(super) fn add(&mut self, unit: &'a ChangedUnit, comparison: &Comparison) {
        let names = self.names.entry(&unit.source).or_default();
        names.extend(comparison.names_of_changed());
    }

    /// What the fix changes and the patch does not. Of a source that was compiled several times,
    /// one object for each function is enough: others are for binaries that were not named.
    pub(super) fn missing_sources(&self, units: &[ChangedUnit]) -> Vec<MissingSource> {
        let mut missing_sources: BTreeMap<&Path, MissingSource> = BTreeMap::new();
        for unit in units {
            let covered = self.names.get(unit.source.as_path());
            let mut names = unit.comparison.names_of_changed();
            names.retain(|name| !covered.is_some_and(|covered| covered.contains(name)));
            if names.is_empty() {
                continue;
            }
            let entry = missing_sources
                .entry(&unit.source)
                .or_insert_with(|| MissingSource {
                    source_file: unit.comparison.original.source.clone(),
                    functions: Vec::new(),
                    holders: Vec::new(),
                });
            names.retain(|name| !entry.functions.contains(name));
            entry.functions.extend(names);
        }
        missing_sources.into_values().collect()
    }
}

/// Notes which files of a build tree hold what is in none of the named binaries.
pub(crate) fn find_holders(
    missing_sources: &mut [MissingSource],
    units: &[ChangedUnit],
    files: &[PathBuf],
    tree: &Path,
) {
    for file in files {
        let Ok(binary) = Binary::read_any(file) else {
            continue;
        };
        let inside = file.strip_prefix(tree).unwrap_or(file);
        for entry in &mut *missing_sources {
            let is_named =
                |unit: &&ChangedUnit| unit.comparison.original.source == entry.source_file;
            let source = units.iter().find(is_named).map(|unit| &unit.source);
            let mut own = units.iter().filter(|unit| Some(&unit.source) == source);
            let holds = own.any(|unit| {
                !matches!(
                    find_unit(&unit.comparison, &binary).presence,
                    Presence::Absent
                )
            });
            if holds {
                entry.holders.push(inside.to_owned());
            }
        }
    }
}
