//! The directory of links that the build command finds in place of compilers.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where records go; also what tells a wrapper from a plain start of the executable.
pub(super) const RECORDS: &str = "ENGRAFT_BUILD_RECORDS";
/// The directory of links, to be left out when the real compiler is looked up.
pub(super) const WRAPPERS: &str = "ENGRAFT_BUILD_WRAPPERS";
/// The user's own tree, in which nothing may be compiled.
pub(super) const SOURCE: &str = "ENGRAFT_BUILD_SOURCE";

/// What compilers are called. `gcc` stands for `gcc-12` and `x86_64-linux-gnu-gcc-12` as well.
const COMPILERS: [&str; 7] = ["cc", "c99", "gcc", "g++", "c++", "clang", "clang++"];
const PREFIXES: [&str; 2] = ["", "x86_64-linux-gnu-"];
const VERSIONS: std::ops::RangeInclusive<u32> = 7..=24;

/// The links, and a place for records.
pub(crate) struct Recorder {
    links: PathBuf,
}

impl Recorder {
    /// Makes the directory of links inside `work`; each leads to `executable`.
    pub(crate) fn new(work: &Path, executable: &Path) -> io::Result<Self> {
        let links = work.join("wrappers");
        std::fs::create_dir(&links)?;
        for name in wrapper_names() {
            symlink(executable, links.join(name))?;
        }
        Ok(Self { links })
    }

    /// Prepares a command so that its compiles are recorded in `records`.
    pub(crate) fn watch(&self, command: &mut Command, records: &Path, source: &Path) {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut watched = self.links.clone().into_os_string();
        watched.push(":");
        watched.push(path);
        command.env("PATH", watched);
        command
            .env(WRAPPERS, &self.links)
            .env(RECORDS, records)
            .env(SOURCE, source)
            // What a cache answers, no compiler is started for.
            .env("CCACHE_DISABLE", "1");
    }
}

fn wrapper_names() -> Vec<String> {
    let mut names = Vec::new();
    for prefix in PREFIXES {
        for compiler in COMPILERS {
            names.push(format!("{prefix}{compiler}"));
            names.extend(VERSIONS.map(|version| format!("{prefix}{compiler}-{version}")));
        }
    }
    names
}
