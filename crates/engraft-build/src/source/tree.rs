//! The private copy of the user's source tree.
//!
//! Everything is compiled at one path, so that `__FILE__` and the like do not depend on which
//! version of the source is there: the versions take turns at it.

use std::collections::BTreeSet;
use std::fs::{self, FileTimes, Metadata};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Source trees taking turns at one path.
pub(crate) struct Trees {
    work: PathBuf,
}

impl Trees {
    /// Copies `source` to the path inside `work`.
    pub(crate) fn new(source: &Path, work: &Path) -> io::Result<Self> {
        let trees = Self {
            work: work.to_owned(),
        };
        copy_tree(source, &trees.current())?;
        Ok(trees)
    }

    /// The path that all versions are compiled at.
    pub(crate) fn current(&self) -> PathBuf {
        self.work.join("tree")
    }

    /// Keeps the tree as it is now for [`Trees::bring_back_original`].
    pub(crate) fn keep_original(&self) -> io::Result<()> {
        copy_tree(&self.current(), &self.original())
    }

    /// The kept tree, until it is brought back.
    pub(crate) fn original(&self) -> PathBuf {
        self.work.join("original")
    }

    /// Where the kept tree has what is at a path of the current one. `None` if that is outside of
    /// the tree.
    pub(crate) fn in_original(&self, path: &Path) -> Option<PathBuf> {
        let inside = path.strip_prefix(self.current()).ok()?;
        Some(self.original().join(inside))
    }

    /// True if there is a file at a path of the current tree, in either version.
    pub(crate) fn has(&self, path: &Path) -> bool {
        path.is_file() || self.in_original(path).is_some_and(|path| path.is_file())
    }

    /// Puts the kept tree, with all that its build generated, back at the path.
    pub(crate) fn bring_back_original(&self) -> io::Result<()> {
        fs::rename(self.current(), self.work.join("fixed"))?;
        fs::rename(self.original(), self.current())
    }
}

/// The files by which two trees differ, relative to them.
#[derive(Debug, Default)]
pub(crate) struct TreeChanges {
    /// In both, with other content.
    pub(crate) changed: BTreeSet<PathBuf>,
    /// In the second only.
    pub(crate) added: BTreeSet<PathBuf>,
    /// In the first only.
    pub(crate) removed: BTreeSet<PathBuf>,
}

impl TreeChanges {
    pub(crate) fn between(first: &Path, second: &Path) -> io::Result<Self> {
        let mut changes = Self::default();
        changes.look(first, second, Path::new(""))?;
        Ok(changes)
    }

    fn look(&mut self, first: &Path, second: &Path, inside: &Path) -> io::Result<()> {
        let names = |tree: &Path| -> io::Result<BTreeSet<_>> {
            match fs::read_dir(tree.join(inside)) {
                Ok(entries) => entries.map(|entry| Ok(entry?.file_name())).collect(),
                Err(error) if is_absent(&error) => Ok(BTreeSet::new()),
                Err(error) => Err(error),
            }
        };
        let mut all = names(first)?;
        all.extend(names(second)?);
        for name in all {
            let path = inside.join(name);
            let kinds = [first, second].map(|tree| fs::symlink_metadata(tree.join(&path)).ok());
            let is_directory =
                |kind: &Option<Metadata>| kind.as_ref().is_some_and(Metadata::is_dir);
            if kinds.iter().any(is_directory) {
                self.look(first, second, &path)?;
            }
            match &kinds {
                [Some(a), Some(b)] if !a.is_dir() && !b.is_dir() => {
                    let is_same = is_same_file((a, &first.join(&path)), (b, &second.join(&path)));
                    self.changed.extend((!is_same).then_some(path));
                }
                [Some(a), b] if !a.is_dir() && b.is_none() => drop(self.removed.insert(path)),
                [a, Some(b)] if !b.is_dir() && a.is_none() => drop(self.added.insert(path)),
                _ => {}
            }
        }
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.added.is_empty() && self.removed.is_empty()
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// What was copied and not written since has its time.
fn is_same_file(
    (first, first_path): (&Metadata, &Path),
    (second, second_path): (&Metadata, &Path),
) -> bool {
    if first.is_symlink() || second.is_symlink() {
        let links = (fs::read_link(first_path), fs::read_link(second_path));
        return matches!(links, (Ok(first), Ok(second)) if first == second);
    }
    if first.len() != second.len() {
        return false;
    }
    let times = (first.modified().ok(), second.modified().ok());
    if matches!(times, (Some(first), Some(second)) if first == second) {
        return true;
    }
    let contents = (fs::read(first_path), fs::read(second_path));
    matches!(contents, (Ok(first), Ok(second)) if first == second)
}

/// Copies with modification times: build systems compare them.
fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(entry.path())?, &target)?;
        } else if kind.is_file() {
            copy_file(&entry.path(), &target)?;
        }
        // Sockets, pipes and devices are no source.
    }
    copy_times(from, to)
}

fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    fs::copy(from, to)?;
    copy_times(from, to)
}

fn copy_times(from: &Path, to: &Path) -> io::Result<()> {
    let metadata = fs::metadata(from)?;
    let times = FileTimes::new()
        .set_modified(metadata.modified()?)
        .set_accessed(metadata.accessed()?);
    fs::File::open(to)?.set_times(times)
}
