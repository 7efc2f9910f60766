//! Why no patch file could be built.

use std::path::{Path, PathBuf};

use engraft_patch::WriteError;

use super::progress::Step;
use super::report::MissingSource;
use crate::binary::BinaryError;
use crate::compile::CompileError;
use crate::refusal::{Refusal, by_subject, each_once};
use crate::source::FixError;
use crate::unit::ObjectFileError;

/// Which of the two builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Of the source as it is.
    Original,
    /// With the fix applied.
    Fixed,
    /// Of the fixed source once more, for objects that were in the tree before.
    Prebuilt,
}

impl Stage {
    /// The step of the work that it is.
    pub(crate) fn step(self) -> Step {
        match self {
            Self::Original => Step::Original,
            Self::Fixed => Step::Fixed,
            Self::Prebuilt => Step::Prebuilt,
        }
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Original => "original",
            Self::Fixed => "fixed",
            Self::Prebuilt => "prebuilt",
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
    #[error(
        "the build of the {stage} source failed ({status}):\n{output}\n(hint: --log FILE keeps the whole output)"
    )]
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
    /// The fix changes source, and the build command does nothing about it.
    #[error(
        "the fix changes {}, and the build command has nothing to do, with it or without: as this tree is configured, these files are no part of what it builds (hint: a feature that is off, another system's source, or a command that builds something else)",
        list(files)
    )]
    NothingRecompiled {
        /// What the fix changes.
        files: Vec<PathBuf>,
    },
    /// Objects that the fix changes were made, and no compiler was seen.
    #[error(
        "the fix changes {}, and no compiler was seen to make that (hint: compilers are seen when they are found through PATH under their usual names: cc, gcc, gcc-12, clang, g++, ...; not when the command, CC or a configured tree names one by its full path, as cmake does)",
        list(objects)
    )]
    UnseenCompiles {
        /// The objects, relative to the tree.
        objects: Vec<PathBuf>,
    },
    /// Objects of unknown origin are in a binary, and may have been compiled from what the fix
    /// changes.
    #[error(
        "the fix changes {}, and {} may have been compiled from that: they were in the tree before, may be in a binary, and the build command does not make them again (hint: a command that builds everything, such as: -- sh -c 'make clean && make')",
        list(files),
        list(objects)
    )]
    UnknownCompiles {
        /// The objects, relative to the tree.
        objects: Vec<PathBuf>,
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
    Object(#[from] ObjectFileError),
    /// The fix cannot become a patch as it is. All reasons that were found.
    #[error("the fix cannot be made a patch:\n{}", by_subject(refusals))]
    Refused {
        /// At least one, and none twice.
        refusals: Vec<Refusal>,
    },
    /// Part of the fix is in none of the binaries that were named.
    #[error(
        "the patch would be half of the fix: in none of {} is\n{}\n(hint: name the files that have it with --binary, or make the partial patch with --partial)",
        list(binaries),
        missing_lines(missing_sources)
    )]
    Incomplete {
        /// What is missing, by source file.
        missing_sources: Vec<MissingSource>,
        /// The binaries.
        binaries: Vec<PathBuf>,
    },
    /// The patch could not be encoded.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl BuildError {
    /// The error of an action on a file, once it is known why the action failed.
    pub(crate) fn io<'p>(
        action: &'static str,
        path: &'p Path,
    ) -> impl Fn(std::io::Error) -> Self + 'p {
        move |source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// A refusal for at least one reason. The same reason may have been found in several objects
    /// and binaries.
    pub(crate) fn refused(refusals: Vec<Refusal>) -> Self {
        let refusals = each_once(refusals);
        Self::Refused { refusals }
    }
}

fn list(files: &[PathBuf]) -> String {
    files
        .iter()
        .map(|file| file.display().to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

fn missing_lines(missing_sources: &[MissingSource]) -> String {
    let line = |missing_sources: &MissingSource| {
        let MissingSource {
            source_file,
            functions,
            holders,
        } = missing_sources;
        let holders = match holders.as_slice() {
            [] => "in no program or library of the build tree either".to_owned(),
            holders => format!("in the build tree: {}", list(holders)),
        };
        let functions = functions.join(", ");
        format!("  {functions} of {} ({holders})", source_file.display())
    };
    missing_sources
        .iter()
        .map(line)
        .collect::<Vec<_>>()
        .join("\n")
}
