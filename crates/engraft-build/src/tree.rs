//! The private copy of the user's source tree.
//!
//! Everything is compiled at one path, so that `__FILE__` and the like do not depend on which version of the
//! source is there: the versions take turns at it.

use std::fs::{self, FileTimes};
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

    /// Puts the kept tree, with all that its build generated, back at the path.
    pub(crate) fn bring_back_original(&self) -> io::Result<()> {
        fs::rename(self.current(), self.work.join("fixed"))?;
        fs::rename(self.original(), self.current())
    }
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
