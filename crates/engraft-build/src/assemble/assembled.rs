//! What goes into the patch, and what does not.

use std::collections::BTreeSet;
use std::path::Path;

use engraft_patch::Object;

use super::assignments::Assignments;
use super::changed_types::ChangedTypes;
use super::covered::Covered;
use crate::binary::Binary;
use crate::candidates::ChangedUnit;
use crate::image::{self, LinkedUnit};
use crate::layouts::Harmless;
use crate::request::{BuildError, ChangedBinary, MissingSource};

/// What goes into the patch, and what does not.
pub(crate) struct Assembled {
    pub(crate) objects: Vec<(Object, ChangedBinary)>,
    pub(crate) missing_sources: Vec<MissingSource>,
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
        let Assignments { linked, refused } = Assignments::new(units, binary);
        refusals.extend(refused);
        for (unit, object) in &linked {
            covered.add(unit, object.comparison);
            types.add(unit);
        }
        let linked: Vec<_> = linked.into_iter().map(|(_, object)| object).collect();
        let changes_code = linked
            .iter()
            .any(|object| object.changed().next().is_some());
        if changes_code && refusals.is_empty() {
            match image::build(binary, &linked) {
                Ok(object) => objects.push((object, changed_object(binary, &linked))),
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
        missing_sources: covered.missing_sources(units),
        harmless: types.harmless,
        accepted,
    })
}

fn changed_object(binary: &Binary, linked: &[LinkedUnit<'_>]) -> ChangedBinary {
    let (mut changed, mut new) = (Vec::new(), Vec::new());
    for unit in linked {
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
    ChangedBinary {
        binary: binary.path.clone(),
        changed: told_apart(&changed),
        new: told_apart(&new),
    }
}

/// The names of functions. Where several have the same name, each is followed by its source file.
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
