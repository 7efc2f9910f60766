//! Our own compiles of what the build recompiled.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::command::Compile;
use super::parallel::each;

/// A compile of ours that failed.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The compiler could not be started.
    #[error("cannot run {compiler}: {source}")]
    Start {
        /// The compiler.
        compiler: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The compiler failed although the build's own compile did not.
    #[error(
        "{source_file} does not compile with -ffunction-sections -fdata-sections added:\n{output}"
    )]
    Failed {
        /// The source file.
        source_file: PathBuf,
        /// The compiler's last words.
        output: String,
    },
}

/// Compiles each with every function and variable in a section of its own, to `outputs/N.o`.
///
/// `tree` is where the sources stand, `home` where the user has them.
pub(crate) fn compile_all(
    compiles: &[Compile],
    outputs: &Path,
    tree: &Path,
    home: &Path,
) -> Vec<Result<PathBuf, CompileError>> {
    each(compiles, |index, compile| {
        let output = outputs.join(format!("{index}.o"));
        run(compile, &output, tree, home).map(|()| output)
    })
}

fn run(compile: &Compile, output: &Path, tree: &Path, home: &Path) -> Result<(), CompileError> {
    let record = &compile.record;
    let result = command(compile)
        .args(compile.separated(output, tree, home))
        .output()
        .map_err(|source| CompileError::Start {
            compiler: record.compiler.clone(),
            source,
        })?;
    if result.status.success() {
        return Ok(());
    }
    let output = last_lines(&result.stderr, 20);
    Err(CompileError::Failed {
        source_file: compile.source.clone(),
        output,
    })
}

/// The same compiler, to be asked which files the compile reads.
pub(super) fn preprocessor(compile: &Compile) -> Command {
    let mut command = command(compile);
    command.args(compile.dependencies());
    command
}

/// The compiler as the build started it, without arguments.
fn command(compile: &Compile) -> Command {
    let record = &compile.record;
    let mut command = Command::new(&record.compiler);
    command
        .current_dir(&record.directory)
        .env_clear()
        // One instant for __DATE__ and __TIME__ in both versions; a recorded one wins.
        .env("SOURCE_DATE_EPOCH", "0")
        .envs(&record.environment);
    command
}

/// The last lines of what a command printed.
pub(crate) fn last_lines(output: &[u8], count: usize) -> String {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<_> = text.lines().collect();
    lines
        .get(lines.len().saturating_sub(count)..)
        .unwrap_or_default()
        .join("\n")
}
