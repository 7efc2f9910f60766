//! Why no patch file could be built.

use std::path::PathBuf;

use engraft_patch::WriteError;

use crate::binary::BinaryError;
use crate::compile::CompileError;
use crate::fix::FixError;
use crate::refusal::Refusal;
use crate::unit::ObjectError;

/// Which of the two builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Of the source as it is.
    Original,
    /// With the fix applied.
    Fixed,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Original => "original",
            Self::Fixed => "fixed",
        })
    }
}

/// Why no patch file could be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The request makes no sense as it is.
    #[error("{what} (hint: {hint})")]
    Request {
        /// What is wrong.
        what: String,
        /// What to do.
        hint: &'static str,
    },
    /// The source could not be copied, or a file of our own not be written.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// About a binary.
    #[error(transparent)]
    Binary(#[from] BinaryError),
    /// About the fix.
    #[error(transparent)]
    Fix(#[from] FixError),
    /// The build command could not be started.
    #[error("cannot run {command}: {source}")]
    CommandNotFound {
        /// Its first word.
        command: String,
        /// Why.
        source: std::io::Error,
    },
    /// The build command failed.
    #[error("the build of the {stage} source failed ({status}):\n{output}")]
    BuildFailed {
        /// Which build.
        stage: Stage,
        /// How the command ended.
        status: std::process::ExitStatus,
        /// The last lines of its output.
        output: String,
    },
    /// No compiler was seen.
    #[error(
        "the build command ran, but no compile was seen (hint: compilers are seen when they are found through PATH under their usual names: cc, gcc, gcc-12, clang, g++, ...; not when the command, CC or a configured tree names one by its full path, as cmake does)"
    )]
    NoCompileRecorded,
    /// The fix changes source, and nothing was compiled after it.
    #[error(
        "the fix changes {}, but the build command compiled nothing that it was seen to compile before (hint: does the command build these files, and does it notice that they changed?)",
        list(files)
    )]
    NothingRecompiled {
        /// What the fix changes.
        files: Vec<PathBuf>,
    },
    /// The fix changes no function, but files that no C compiler sees.
    #[error(
        "the fix changes {}, which no recorded compile reads, and the code of no function (hint: only what the build command compiles with a C compiler can be patched, sources in other languages cannot; a C file needs a command that builds it)",
        list(files)
    )]
    NotCompiled {
        /// Those files.
        files: Vec<PathBuf>,
    },
    /// A compile of our own failed.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// An object cannot be read.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The fix cannot become a patch as it is. All reasons that were found.
    #[error("the fix cannot be made a patch:\n{}", lines(refusals))]
    Refused {
        /// At least one.
        refusals: Vec<Refusal>,
    },
    /// The patch could not be encoded.
    #[error(transparent)]
    Write(#[from] WriteError),
}

fn list(files: &[PathBuf]) -> String {
    files
        .iter()
        .map(|file| file.display().to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

fn lines(refusals: &[Refusal]) -> String {
    refusals
        .iter()
        .map(|refusal| format!("  {refusal}"))
        .collect::<Vec<_>>()
        .join("\n")
}
