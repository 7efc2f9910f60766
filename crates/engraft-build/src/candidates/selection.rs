//! Which compiles the fix may have changed.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::pairing::{Candidate, pairs};
use super::same_program;
use super::unseen::unseen;
use crate::compile::{Compile, Identity, Reads, compiles, real_path};
use crate::record::Record;
use crate::source::{TreeChanges, Trees};

/// The compiles that the fix may have changed.
pub(crate) struct Candidates {
    pub(crate) compiles: Vec<Candidate>,
    /// How many read anything that the fix changed.
    pub(crate) considered: usize,
    /// Touched files that no compile reads.
    pub(crate) unread: Vec<PathBuf>,
    /// Objects that differ, and that no compiler was seen to make.
    pub(crate) unseen: Vec<PathBuf>,
}

impl Candidates {
    /// Compares what every compile reads, as the compiler says, and how it was called. The build
    /// system is not asked: it may not notice all changes, and what it makes anew may be the same.
    ///
    /// Both trees must be as the builds left them. `touched` is what the fix itself changed.
    pub(crate) fn new(
        first: &[Record],
        second: &[Record],
        touched: &[PathBuf],
        trees: &Trees,
    ) -> io::Result<Self> {
        let changes = TreeChanges::between(&trees.original(), &trees.current())?;
        let [mut first, mut second] = [first, second]
            .map(|records| -> Vec<_> { records.iter().flat_map(compiles).collect() });
        for build in [&mut first, &mut second] {
            // What a configure script tries is gone, source and product.
            build.retain(|compile| compile.source_path().is_file() || trees.has(&compile.product));
        }
        bring_back_sources(&first, &second, trees)?;
        let all: Vec<_> = first.iter().chain(&second).cloned().collect();
        let reads = Reads::ask(&all);
        let unread = reads.unread(touched, &trees.current());
        let selection = Selection {
            trees,
            reads: &reads,
            changed: changed_paths(&changes, trees),
            names: changed_names(&changes),
            again: second.iter().map(Compile::identity).collect(),
            uses: uses(&all),
        };
        let mut considered = pairs(&first, &second, !unread.is_empty());
        considered.retain(|candidate| selection.may_differ(candidate));
        let mut candidates = considered.clone();
        candidates.retain(|candidate| !selection.was_made_alike(candidate));
        Ok(Self {
            compiles: candidates,
            considered: considered.len(),
            unread,
            unseen: unseen(&all, &changes, trees),
        })
    }
}

struct Selection<'a> {
    trees: &'a Trees,
    reads: &'a Reads,
    /// Files that differ, by their real paths.
    changed: BTreeSet<PathBuf>,
    /// Names of files that one tree has and the other has not.
    names: BTreeSet<OsString>,
    /// What the second build compiled.
    again: BTreeSet<Identity>,
    /// How many commands made each product.
    uses: BTreeMap<PathBuf, usize>,
}

impl Selection<'_> {
    fn may_differ(&self, candidate: &Candidate) -> bool {
        let compile = &candidate.fixed;
        if candidate.has_other_options() {
            return true;
        }
        let reads_changed = match self.reads.of(compile) {
            // A header with a name that was not there before may be found in front of the one that
            // was read.
            Some(files) => files.iter().any(|file| {
                let name = file.file_name().unwrap_or_default();
                self.changed.contains(file) || self.names.contains(name)
            }),
            // It may read anything, if it is no failed trial.
            None => self.trees.has(&compile.product),
        };
        reads_changed || (self.is_remade(compile) && !self.has_same_products(compile))
    }

    /// The build's own objects hold the same program. Most objects that a changed header makes it
    /// compile again do.
    fn was_made_alike(&self, candidate: &Candidate) -> bool {
        let compile = &candidate.fixed;
        !candidate.has_other_options()
            && self.is_remade(compile)
            && self.uses.get(&compile.product) == Some(&1)
            && self.has_same_products(compile)
    }

    fn is_remade(&self, compile: &Compile) -> bool {
        compile.makes_object && self.again.contains(&compile.identity())
    }

    fn has_same_products(&self, compile: &Compile) -> bool {
        let original = self.trees.in_original(&compile.product);
        original.is_some_and(|original| same_program::same_program(&original, &compile.product))
    }
}

fn uses(compiles: &[Compile]) -> BTreeMap<PathBuf, usize> {
    let commands: BTreeSet<_> = compiles
        .iter()
        .map(|compile| (compile.product.clone(), compile.identity()))
        .collect();
    let mut uses = BTreeMap::new();
    for (product, _) in commands {
        *uses.entry(product).or_default() += 1;
    }
    uses
}

fn changed_paths(changes: &TreeChanges, trees: &Trees) -> BTreeSet<PathBuf> {
    let files = changes.changed.iter().chain(&changes.added);
    let paths = files.map(|file| trees.current().join(file));
    paths.map(|path| real_path(&path).unwrap_or(path)).collect()
}

fn changed_names(changes: &TreeChanges) -> BTreeSet<OsString> {
    let files = changes.added.iter().chain(&changes.removed);
    files
        .filter_map(|file| file.file_name())
        .map(ToOwned::to_owned)
        .collect()
}

/// Puts generated sources back that the build removed when they were compiled, as make does with
/// what it takes for intermediate files.
fn bring_back_sources(first: &[Compile], second: &[Compile], trees: &Trees) -> io::Result<()> {
    let put = |compile: &Compile, path: &Path| {
        let Some(kept) = compile.kept.as_ref().filter(|_| !path.exists()) else {
            return Ok(());
        };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::copy(kept, path).map(drop)
    };
    for compile in second.iter().chain(first) {
        if trees.in_original(&compile.source_path()).is_some() {
            put(compile, &compile.source_path())?;
        }
    }
    // One that only the second build had is new.
    for compile in first {
        if let Some(path) = trees.in_original(&compile.source_path()) {
            put(compile, &path)?;
        }
    }
    Ok(())
}
