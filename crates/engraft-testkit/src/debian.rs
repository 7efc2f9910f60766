//! Source packages of Debian 12, as real input for tests.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::apt::Apt;

/// An unpacked source package, with Debian's patches applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourcePackage {
    /// Its version. The mirrors may no longer have the wanted one; then this is the one that they
    /// have.
    pub version: String,
    /// The directory with the sources.
    pub tree: PathBuf,
}

impl SourcePackage {
    /// Takes a package from `cache`, or downloads it to there: this version, or the one that the
    /// mirrors have now.
    pub fn fetch(name: &str, version: &str, cache: &Path) -> Result<Self> {
        let home = cache.join(name);
        if let Ok(package) = Self::find(&home) {
            return Ok(package);
        }
        // Unpacked elsewhere and then renamed, so that an interrupted run leaves no incomplete
        // copy.
        fs::create_dir_all(cache)?;
        let work = tempfile::tempdir_in(cache)?;
        let apt = Apt::for_sources(work.path())?;
        let unpacked = work.path().join("unpacked");
        fs::create_dir(&unpacked)?;
        apt.run(&["update"], work.path())?;
        let exact = apt.run(&["source", &format!("{name}={version}")], &unpacked);
        if exact.is_err() {
            apt.run(&["source", name], &unpacked)?;
        }
        Self::find(&unpacked)?;
        match fs::rename(&unpacked, &home) {
            // Another test run was faster.
            Err(_) if home.exists() => {}
            renamed => renamed?,
        }
        Self::find(&home)
    }

    fn find(directory: &Path) -> Result<Self> {
        for entry in fs::read_dir(directory)? {
            let tree = entry?.path();
            if let Ok(changelog) = fs::read_to_string(tree.join("debian/changelog")) {
                return Ok(Self {
                    version: newest_version(&changelog)?,
                    tree,
                });
            }
        }
        anyhow::bail!("no source package in {}", directory.display())
    }
}

/// The version in a changelog's first line: `expat (2.5.0-1+deb12u2) bookworm; urgency=medium`.
fn newest_version(changelog: &str) -> Result<String> {
    let version = changelog
        .split_once('(')
        .and_then(|(_, rest)| rest.split_once(')'));
    let (version, _) = version.context("the changelog names no version")?;
    Ok(version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_the_newest_entry() {
        let changelog = "expat (2.5.0-1+deb12u2) bookworm; urgency=medium\n\n  * x (y)\n";
        assert_eq!(newest_version(changelog).unwrap(), "2.5.0-1+deb12u2");
    }
}
