//! What the user gets.

use std::path::PathBuf;
use std::time::Duration;

use engraft_patch::Patch;

/// What came of it.
#[derive(Debug)]
pub struct BuildReport {
    /// The patch, or that none is needed.
    pub outcome: BuildOutcome,
    /// What changed, in each binary that holds some of it.
    pub objects: Vec<ChangedBinary>,
    /// What of the fix is in none of the binaries: other programs of the same source, tests,
    /// libraries that the request did not name. Empty unless the request allows a partial patch.
    pub missing_sources: Vec<MissingSource>,
    /// Types whose layout the fix changes, and why that does no harm. To be shown to the user.
    pub harmless: Vec<(String, String)>,
    /// Files that the fix changes and no recorded compile reads, neither as a source nor as a
    /// header: documentation, tests, other languages. What they mean for the program is not in the
    /// patch, unless the build makes C of them or they say how to build. To be shown to the user.
    pub unread: Vec<PathBuf>,
    /// Objects that the fixed build made anew and that were compared with the original's.
    pub compared: usize,
    /// Time spent in the user's two builds.
    pub builds: Duration,
    /// Time spent on everything else.
    pub extraction: Duration,
}

/// The patch, or that none is needed.
#[derive(Debug)]
pub enum BuildOutcome {
    /// The patch and its bytes as a file.
    Patch {
        /// What it says.
        patch: Patch,
        /// Its form on disk.
        file: Vec<u8>,
    },
    /// The fix changes no code in the binary: other architecture, an option that is off, the same
    /// code after optimisation.
    NoChange,
}

/// What changed in one binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedBinary {
    /// The binary.
    pub binary: PathBuf,
    /// Functions that get new code.
    pub changed: Vec<String>,
    /// Functions that only the fixed source has.
    pub new: Vec<String>,
}

/// A changed source file that is in no binary that was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingSource {
    /// As the compiler's command line names it.
    pub source_file: PathBuf,
    /// Its changed functions, and variables.
    pub functions: Vec<String>,
    /// Programs and libraries of the build tree that have them, relative to it.
    pub holders: Vec<PathBuf>,
}
