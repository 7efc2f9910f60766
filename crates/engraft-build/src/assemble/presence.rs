//! Which changed objects are in a binary, and whether what changed can be patched there.

use std::collections::BTreeSet;
use std::path::PathBuf;

use engraft_patch::LinkAddress;

use crate::binary::Binary;
use crate::compare::{Comparison, cold_parts};
use crate::correlate::{Correlation, addresses_by_name, variable_by_name};
use crate::image::LinkedUnit;
use crate::refusal::Refusal;
use crate::unit::{Item, ItemId, Kind, Unit};

/// What became of one object in one binary.
pub(crate) enum Presence<'a> {
    /// All its changed functions are there.
    Present(LinkedUnit<'a>),
    /// It is there, but cannot be patched.
    Refused(Vec<Refusal>),
    /// It does not seem to be there.
    Absent,
}

/// One changed object in one binary.
pub(crate) struct Found<'a> {
    pub(crate) presence: Presence<'a>,
    /// Where the object's functions were found, the unchanged ones too.
    pub(crate) located: BTreeSet<u64>,
    /// How much of its code that is, in bytes, and how much there is.
    pub(crate) coverage: (u64, u64),
    /// Why each changed function that was not found is missing, and where the binary has something
    /// of its name.
    pub(crate) missing: Vec<(Refusal, Vec<u64>)>,
}

/// Looks for one changed object in a binary.
pub(crate) fn find_unit<'a>(comparison: &'a Comparison, binary: &Binary) -> Found<'a> {
    let wanted = wanted(comparison);
    let correlation = Correlation::new(&comparison.original, binary, &wanted);
    let located = correlation
        .located
        .values()
        .map(|found| found.address)
        .collect();
    let is_in = is_in(comparison, &correlation, binary);
    let coverage = correlation.coverage(&comparison.original);
    let missing: Vec<_> = wanted
        .iter()
        .filter(|id| !correlation.located.contains_key(id))
        .filter(|id| !comparison.removed.contains(id))
        .filter(|id| !is_told_by_its_function(comparison, &correlation, **id))
        .map(|&id| {
            let refusal = missing(comparison, &correlation, binary, id);
            (refusal, addresses_by_name(&comparison.original, id, binary))
        })
        .collect();
    // The linker may have dropped the rest.
    let all_found = || !wanted.is_empty() && !is_of_others(comparison, &correlation, binary);
    let refusals = || missing.iter().map(|(refusal, _)| refusal.clone()).collect();
    let presence = if missing.is_empty() && (is_in || all_found()) {
        checked(comparison, correlation)
    } else if is_in {
        Presence::Refused(refusals())
    } else {
        Presence::Absent
    };
    Found {
        presence,
        located,
        coverage,
        missing,
    }
}

/// True if a binary that has some functions of an object, by name, must have them from another one:
/// it was not linked from a source file of this name, or has other code for a name that it can have
/// once only.
fn is_of_others(comparison: &Comparison, correlation: &Correlation, binary: &Binary) -> bool {
    let unit = &comparison.original;
    let contradicts = |id: &ItemId| unit.item(*id).is_some_and(|item| item.global);
    names_other_sources(unit, binary) || correlation.differing.keys().any(contradicts)
}

/// True if the binary says which source files it is from, and this is none of them.
fn names_other_sources(unit: &Unit, binary: &Binary) -> bool {
    let name = unit.source.file_name().unwrap_or_default();
    !binary.source_files.is_empty() && !binary.source_files.contains(name)
}

/// True if the binary seems to have the object, going by names alone: what the fix changes may be
/// there in a form that was not recognised.
pub(crate) fn may_be_in(comparison: &Comparison, binary: &Binary) -> bool {
    let unit = &comparison.original;
    if names_other_sources(unit, binary) {
        return false;
    }
    let (mut named, mut total) = (0, 0);
    for (id, item) in unit.functions() {
        total += item.size;
        if !addresses_by_name(unit, id, binary).is_empty() {
            named += item.size;
        }
    }
    total > 0 && named * 2 >= total
}

/// Refuses what cannot be patched wherever it is.
fn checked(comparison: &Comparison, correlation: Correlation) -> Presence<'_> {
    let mut refusals = Vec::new();
    let shipped = shipped_data(comparison, &mut refusals);
    if comparison.loader_calls_differ {
        let source_file = comparison.original.source.clone();
        refusals.push(Refusal::LoaderCalls { source_file });
    }
    if refusals.is_empty() {
        Presence::Present(LinkedUnit {
            comparison,
            correlation,
            shipped,
            elsewhere: BTreeSet::new(),
        })
    } else {
        Presence::Refused(refusals)
    }
}

/// Most of the object's code is there. The same source compiled with other options shares only some
/// small functions. Of an object without code, a changed variable is there.
fn is_in(comparison: &Comparison, correlation: &Correlation, binary: &Binary) -> bool {
    let unit = &comparison.original;
    let (located, total) = correlation.coverage(unit);
    if total > 0 {
        return located * 2 >= total;
    }
    comparison
        .changed_data
        .iter()
        .any(|&id| variable_by_name(unit, id, binary).is_some())
}

/// The functions that must be found: changed and removed functions, with their cold parts.
fn wanted(comparison: &Comparison) -> BTreeSet<ItemId> {
    let cold = cold_parts(&comparison.original);
    let all = comparison.changed.iter().chain(&comparison.removed);
    all.flat_map(|id| cold.get(id).into_iter().flatten().chain([id]))
        .copied()
        .collect()
}

/// True for the cold part of a function that is missing itself.
fn is_told_by_its_function(comparison: &Comparison, correlation: &Correlation, id: ItemId) -> bool {
    let owner = comparison.owner(id).filter(|owner| *owner != id);
    owner.is_some_and(|owner| !correlation.located.contains_key(&owner))
}

fn missing(
    comparison: &Comparison,
    correlation: &Correlation,
    binary: &Binary,
    id: ItemId,
) -> Refusal {
    let unit = &comparison.original;
    let function = unit
        .item(id)
        .map(|item| item.name.clone())
        .unwrap_or_default();
    let binary = binary.file_name();
    if let Some(mismatch) = correlation.differing.get(&id) {
        return Refusal::CodeDiffers {
            function,
            binary,
            mismatch: mismatch.clone(),
        };
    }
    if let Some(places) = correlation.ambiguous.get(&id) {
        let places = places.iter().copied().map(LinkAddress).collect();
        return Refusal::AmbiguousFunction {
            function,
            binary,
            places,
        };
    }
    Refusal::FunctionNotInBinary {
        function,
        source_file: unit.source.clone(),
        binary,
    }
}

/// Changed data: what may come with the new code, and refusals for what may not.
fn shipped_data(comparison: &Comparison, refusals: &mut Vec<Refusal>) -> BTreeSet<ItemId> {
    let mut shipped = BTreeSet::new();
    let unit = &comparison.original;
    let name = |id: &ItemId| {
        unit.item(*id)
            .map(|item| item.name.clone())
            .unwrap_or_default()
    };
    let source_file = || -> PathBuf { unit.source.clone() };
    for &id in &comparison.changed_data {
        let Some(item) = unit.item(id) else { continue };
        match item.kind {
            Kind::Tls => {
                refusals.push(Refusal::ThreadLocal {
                    name: name(&id),
                    source_file: source_file(),
                });
            }
            Kind::Ifunc => refusals.push(Refusal::Resolver {
                function: name(&id),
            }),
            Kind::ReadOnly => match other_users(comparison, item, id) {
                users if users.is_empty() => {
                    shipped.insert(id);
                }
                users => {
                    let (name, source_file) = (name(&id), source_file());
                    refusals.push(Refusal::ChangedData {
                        name,
                        source_file,
                        users,
                    });
                }
            },
            _ => refusals.push(Refusal::ChangedData {
                name: name(&id),
                source_file: source_file(),
                users: Vec::new(),
            }),
        }
    }
    shipped
}

/// What would go on using the old content of read-only data.
fn other_users(comparison: &Comparison, item: &Item, id: ItemId) -> Vec<String> {
    let users = comparison.users(id);
    let unchanged = users
        .functions
        .iter()
        .filter(|user| !comparison.changed.contains(user) && !comparison.removed.contains(user));
    let functions = unchanged.filter_map(|user| comparison.original.item(*user));
    let mut names: Vec<_> = functions.map(|function| function.name.clone()).collect();
    names.extend(users.data);
    if item.global {
        names.push("other source files, perhaps (it is not static)".to_owned());
    }
    names
}
