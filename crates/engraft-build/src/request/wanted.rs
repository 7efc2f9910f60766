//! What the user asks for.

use std::ffi::OsString;
use std::path::PathBuf;

use super::progress::Progress;

/// What is to be built.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    /// The source that the binaries were built from. It is copied, never changed.
    pub source: PathBuf,
    /// A unified diff.
    pub fix: PathBuf,
    /// The programs and shared libraries that are to be patched.
    pub binaries: Vec<PathBuf>,
    /// The patch's name; without one, the fix's file name is made into it.
    pub name: Option<String>,
    /// The user's build command, run in a copy of `source`.
    pub command: Vec<OsString>,
    /// An executable whose `main` begins with [`crate::wrapper_main`].
    pub wrapper: PathBuf,
    /// Where the patch file goes, if it is to be written.
    pub output: Option<PathBuf>,
    /// Make the patch also if it is less than the fix.
    pub partial: bool,
    /// Types, `struct conn` or `conn`, whose layout the fix may change.
    pub accept_layouts: Vec<String>,
    /// Where the whole output of the build command goes, if it is wanted.
    pub log: Option<PathBuf>,
    /// Leave the directory in which the build took place.
    pub keep: bool,
    /// Is told what is being done.
    pub progress: Progress,
}
