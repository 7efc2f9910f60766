//! Which compile of the original build is which of the fixed one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::compile::{Compile, Identity};

/// One compile in both builds. They differ only if the fix changes how the source is compiled.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) original: Compile,
    pub(crate) fixed: Compile,
}

impl Candidate {
    fn same(compile: &Compile) -> Self {
        Self {
            original: compile.clone(),
            fixed: compile.clone(),
        }
    }

    pub(super) fn has_other_options(&self) -> bool {
        self.original.identity() != self.fixed.identity()
    }
}

/// By what it is compiled from and to; the commands in the order in which they were given.
type Groups = BTreeMap<(PathBuf, PathBuf), Vec<Compile>>;

/// All compiles of both builds, each command once.
///
/// A source may be compiled several times, with other options, to an output of the same name: each
/// of them may be in a binary. Where `by_fix` says that the fix may change commands, one that only
/// the first build gave belongs to one that only the second gave; otherwise commands differ for
/// other reasons, such as the time, and each stands for itself.
pub(super) fn pairs(first: &[Compile], second: &[Compile], by_fix: bool) -> Vec<Candidate> {
    let (first, mut second) = (groups(first), groups(second));
    let mut pairs = Vec::new();
    for (key, originals) in &first {
        let fixed = second.remove(key).unwrap_or_default();
        pairs.extend(pairs_of_one(originals, &fixed, by_fix));
    }
    pairs.extend(second.values().flatten().map(Candidate::same));
    pairs
}

fn pairs_of_one(originals: &[Compile], fixed: &[Compile], by_fix: bool) -> Vec<Candidate> {
    let identities = |compiles: &[Compile]| -> BTreeSet<Identity> {
        compiles.iter().map(Compile::identity).collect()
    };
    let (in_first, in_second) = (identities(originals), identities(fixed));
    let (both, first_only): (Vec<&Compile>, Vec<_>) = originals
        .iter()
        .partition(|compile| in_second.contains(&compile.identity()));
    let is_new = |compile: &&Compile| !in_first.contains(&compile.identity());
    let second_only: Vec<_> = fixed.iter().filter(is_new).collect();
    let mut pairs: Vec<_> = both.into_iter().map(Candidate::same).collect();
    let is_changed = first_only.len() == second_only.len();
    if is_changed && by_fix {
        let changed = first_only.into_iter().zip(second_only);
        pairs.extend(changed.map(|(original, fixed)| Candidate {
            original: original.clone(),
            fixed: fixed.clone(),
        }));
    } else if is_changed {
        pairs.extend(second_only.into_iter().map(Candidate::same));
    } else {
        pairs.extend(
            first_only
                .into_iter()
                .chain(second_only)
                .map(Candidate::same),
        );
    }
    pairs
}

fn groups(compiles: &[Compile]) -> Groups {
    let mut groups = Groups::new();
    for compile in compiles {
        let key = (compile.product.clone(), compile.source_path());
        let group = groups.entry(key).or_default();
        if !group
            .iter()
            .any(|other| other.identity() == compile.identity())
        {
            group.push(compile.clone());
        }
    }
    groups
}
