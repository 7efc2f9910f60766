//! The fix: a unified diff, applied with patch(1).

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Why a fix cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FixError {
    /// The file cannot be read.
    #[error("cannot read the fix {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// patch(1) cannot be started.
    #[error("cannot run patch(1): {source} (hint: install the package `patch`)")]
    NoPatchTool {
        /// Why.
        source: io::Error,
    },
    /// It applies with neither -p1 nor -p0.
    #[error("{path} does not apply to the source, with -p1 or -p0:\n{output}")]
    DoesNotApply {
        /// The file.
        path: PathBuf,
        /// What patch(1) says with -p1.
        output: String,
    },
    /// Its reverse applies.
    #[error(
        "{path} is already in the source (hint: --source is the tree that the binary was built from)"
    )]
    AlreadyApplied {
        /// The file.
        path: PathBuf,
    },
    /// No file differs after it was applied.
    #[error("{path} changes no file: it is no unified diff, or an empty one")]
    ChangesNothing {
        /// The file.
        path: PathBuf,
    },
}

/// A fix that is known to apply.
pub(crate) struct Fix {
    path: PathBuf,
    strip: usize,
    /// Files named in it, relative to the tree.
    named: BTreeSet<PathBuf>,
}

impl Fix {
    /// Finds out how `path` applies to `tree`, without changing it.
    pub(crate) fn examine(path: &Path, tree: &Path) -> Result<Self, FixError> {
        let text = std::fs::read(path).map_err(|source| FixError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        let mut first = None;
        for strip in [1, 0] {
            let fix = Self {
                path: path.to_owned(),
                strip,
                named: named_files(&text, strip),
            };
            let output = fix.run(tree, &["--dry-run"])?;
            if output.status.success() {
                return Ok(fix);
            }
            if fix.run(tree, &["--dry-run", "--reverse"])?.status.success() {
                return Err(FixError::AlreadyApplied {
                    path: path.to_owned(),
                });
            }
            first.get_or_insert(output);
        }
        let output = first.map(|output| printed(&output)).unwrap_or_default();
        Err(FixError::DoesNotApply {
            path: path.to_owned(),
            output,
        })
    }

    /// Applies it. Returns the files that differ from `original` now, relative to the tree.
    pub(crate) fn apply(&self, tree: &Path, original: &Path) -> Result<Vec<PathBuf>, FixError> {
        let output = self.run(tree, &[])?;
        if !output.status.success() {
            let output = printed(&output);
            return Err(FixError::DoesNotApply {
                path: self.path.clone(),
                output,
            });
        }
        let differs = |file: &&PathBuf| {
            std::fs::read(tree.join(file)).ok() != std::fs::read(original.join(file)).ok()
        };
        let touched: Vec<_> = self.named.iter().filter(differs).cloned().collect();
        if touched.is_empty() {
            return Err(FixError::ChangesNothing {
                path: self.path.clone(),
            });
        }
        Ok(touched)
    }

    fn run(&self, tree: &Path, options: &[&str]) -> Result<Output, FixError> {
        let unreadable = |source| FixError::Unreadable {
            path: self.path.clone(),
            source,
        };
        Command::new("patch")
            .arg(format!("-p{}", self.strip))
            .args(["--force", "--no-backup-if-mismatch", "--reject-file=-"])
            .args(options)
            .current_dir(tree)
            .env("LC_ALL", "C")
            .stdin(Stdio::from(File::open(&self.path).map_err(unreadable)?))
            .output()
            .map_err(|source| FixError::NoPatchTool { source })
    }
}

fn printed(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text.trim_end().to_owned()
}

/// The files that the headers of a unified diff name.
fn named_files(text: &[u8], strip: usize) -> BTreeSet<PathBuf> {
    let header = |line: &[u8]| {
        let name = line
            .strip_prefix(b"--- ")
            .or_else(|| line.strip_prefix(b"+++ "))?;
        // A tab and a time may follow the name.
        let name = name.split(|&byte| byte == b'\t').next()?.trim_ascii_end();
        let path = Path::new(OsStr::from_bytes(name));
        let stripped: PathBuf = path.components().skip(strip).collect();
        let inside = stripped
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        (inside && !stripped.as_os_str().is_empty()).then_some(stripped)
    };
    text.split(|&byte| byte == b'\n')
        .filter_map(header)
        .collect()
}
