//! Files that nobody may touch.

use std::fs::{self, Metadata};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

const CONTENT: &str = "nobody but root may read or write this\n";

/// A file of root's that the process would like root to write.
pub(crate) struct Canary {
    path: PathBuf,
    before: (u64, i64, i64, u64),
}

impl Canary {
    pub(crate) fn new(directory: &Path) -> Result<Self> {
        let path = directory.join("canary");
        fs::write(&path, CONTENT)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        let before = identity(&fs::metadata(&path)?);
        Ok(Self { path, before })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Fails if it was written, or is another file.
    pub(crate) fn check(&self) -> Result<()> {
        let now = identity(&fs::metadata(&self.path)?);
        ensure!(now == self.before, "the canary was touched: {now:?}");
        ensure!(fs::read_to_string(&self.path)? == CONTENT);
        Ok(())
    }
}

/// Inode, time of the last change of content, size.
fn identity(metadata: &Metadata) -> (u64, i64, i64, u64) {
    let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
    (metadata.ino(), seconds, nanoseconds, metadata.len())
}
