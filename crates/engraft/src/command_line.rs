//! What the user can ask for, and what is answered.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, Subcommand};
use engraft::{Applied, Error, PatchState, Status};
use engraft_build::{BuildRequest, Outcome};
use engraft_patch::Patch;
use engraft_process::Process;

/// Fixes running programs: builds a patch from a source fix, applies it to processes, takes it back.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build a patch from a source fix.
    Build {
        /// The source that the binaries were built from; it is copied, not changed.
        #[arg(long, value_name = "DIR")]
        source: PathBuf,
        /// The fix, a unified diff.
        #[arg(long, value_name = "FIX.patch")]
        patch: PathBuf,
        /// The program or library to patch; may be given several times.
        #[arg(long, value_name = "FILE", required = true)]
        binary: Vec<PathBuf>,
        /// The patch's name; the fix's file name by default.
        #[arg(long)]
        name: Option<String>,
        /// Where the patch file goes; NAME.engraft by default.
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// What builds the source, run in a copy of it.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Apply a patch to a running process. A library that is not loaded is patched when it is.
    Apply {
        /// The patch, made by `engraft build`.
        file: PathBuf,
        /// The process.
        #[arg(long)]
        pid: i32,
        #[command(flatten)]
        patience: Patience,
    },
    /// Show the patches of a process, in the order in which they were enabled.
    Status {
        /// The process.
        #[arg(long)]
        pid: i32,
        /// For programs: one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Take a patch back out of a process.
    Disable {
        /// The patch's name.
        name: String,
        /// The process.
        #[arg(long)]
        pid: i32,
        #[command(flatten)]
        patience: Patience,
    },
}

#[derive(Debug, clap::Args)]
struct Patience {
    /// How long to wait for threads to leave the code that is to be replaced, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    timeout: u64,
}

impl Patience {
    fn duration(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

/// Does what was asked for.
pub(crate) fn run(CommandLine { command }: CommandLine) -> Result<(), Error> {
    match command {
        Command::Build {
            source,
            patch,
            binary,
            name,
            output,
            command,
        } => build(&BuildRequest {
            source,
            fix: patch,
            binaries: binary,
            name,
            command,
            wrapper: std::env::current_exe().map_err(|source| Error::ReadFile {
                path: "/proc/self/exe".into(),
                source,
            })?,
            output,
        }),
        Command::Apply {
            file,
            pid,
            patience,
        } => apply(&file, pid, patience.duration()),
        Command::Status { pid, json } => status(pid, json),
        Command::Disable {
            name,
            pid,
            patience,
        } => disable(&name, pid, patience.duration()),
    }
}

fn build(request: &BuildRequest) -> Result<(), Error> {
    let report = engraft_build::build(request)?;
    let Outcome::Patch { patch, file } = report.outcome else {
        let binaries = list(request.binaries.iter().map(|binary| binary.display()));
        if report.unplaced.is_empty() {
            say(&format!(
                "the fix changes no code in {binaries}: there is nothing to patch\n"
            ));
            return Ok(());
        }
        let functions = list(
            report
                .unplaced
                .iter()
                .flat_map(|unplaced| &unplaced.functions),
        );
        return Err(Error::NotInBinary {
            functions,
            binaries,
        });
    };
    let path = match &request.output {
        Some(path) => path.clone(),
        None => {
            let path = PathBuf::from(format!("{}.engraft", patch.name));
            std::fs::write(&path, file).map_err(|source| Error::WriteFile {
                path: path.clone(),
                source,
            })?;
            path
        }
    };
    say(&format!(
        "patch '{}' written to {}\n",
        patch.name,
        path.display()
    ));
    for object in &report.objects {
        let (binary, changed) = (object.binary.display(), list(&object.changed));
        say(&format!("  {binary}: changes {changed}\n"));
        if !object.new.is_empty() {
            say(&format!("  {binary}: adds {}\n", list(&object.new)));
        }
    }
    for unplaced in &report.unplaced {
        let (file, functions) = (unplaced.source_file.display(), list(&unplaced.functions));
        say(&format!(
            "  not in any of the binaries: {functions} of {file}\n"
        ));
    }
    Ok(())
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items
        .into_iter()
        .map(|item| item.to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

/// Writes data to stdout. Whoever reads it may have seen enough and gone; that is no failure of ours.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn read_patch(path: &Path) -> Result<Patch, Error> {
    let bytes = std::fs::read(path).map_err(|source| Error::ReadFile {
        path: path.to_owned(),
        source,
    })?;
    engraft_patch::read(&bytes).map_err(|source| Error::PatchFile {
        path: path.to_owned(),
        source,
    })
}

fn apply(file: &Path, pid: i32, timeout: Duration) -> Result<(), Error> {
    let patch = read_patch(file)?;
    let name = &patch.name;
    let process = Process::open(pid)?;
    match engraft::apply(&process, &patch, timeout)? {
        Applied::Already => say(&format!(
            "patch '{name}' is already applied to process {pid}\n"
        )),
        Applied::Now {
            waiting,
            stopped_for,
        } => {
            say(&format!(
                "patch '{name}' applied to process {pid}, stopped for {stopped_for:.1?}\n"
            ));
            for object in waiting {
                say(&format!(
                    "{} (build-id {}) is not loaded: the patch waits for it\n",
                    object.file_name, object.build_id
                ));
            }
        }
    }
    Ok(())
}

fn disable(name: &str, pid: i32, timeout: Duration) -> Result<(), Error> {
    let process = Process::open(pid)?;
    let disabled = engraft::disable(&process, name, timeout)?;
    let stopped_for = disabled.stopped_for;
    say(&format!(
        "patch '{name}' disabled in process {pid}, stopped for {stopped_for:.1?}\n"
    ));
    Ok(())
}

fn status(pid: i32, json: bool) -> Result<(), Error> {
    let process = Process::open(pid)?;
    let status = engraft::status(&process)?;
    if json {
        say(&format!("{}\n", serde_json::json!(status)));
    } else {
        say(&describe(&status));
    }
    Ok(())
}

/// The status in words.
fn describe(status: &Status) -> String {
    let mut text = String::new();
    let pid = status.pid;
    // Writing to a String cannot fail.
    let _ = match (&status.agent, status.patches.len()) {
        (None, _) => writeln!(text, "process {pid}: never patched"),
        (Some(_), 0) => writeln!(text, "process {pid}: no patches"),
        (Some(_), 1) => writeln!(text, "process {pid}: 1 patch"),
        (Some(_), count) => writeln!(text, "process {pid}: {count} patches"),
    };
    if status.agent.as_ref().is_some_and(|agent| agent.broken) {
        text.push_str("  the agent found its own state damaged; it refuses all changes\n");
    }
    for patch in &status.patches {
        let state = match patch.state {
            PatchState::Disabled => "disabled",
            PatchState::Enabled => "enabled",
            PatchState::Enabling => "in transition: being enabled",
            PatchState::Disabling => "in transition: being disabled",
        };
        let _ = writeln!(text, "  {}. {} ({state})", patch.order, patch.name);
        for object in &patch.objects {
            let functions = object.functions.join(", ");
            let _ = writeln!(
                text,
                "     {} [{}]: {functions}",
                object.file_name, object.build_id
            );
            for module in &object.modules {
                let path = if module.path.is_empty() {
                    "the program"
                } else {
                    &module.path
                };
                let what = if module.patched {
                    "patched"
                } else {
                    "not patched"
                };
                let _ = writeln!(text, "       {path}: {what}");
            }
            if object.modules.is_empty() {
                text.push_str("       waits for it to be loaded\n");
            }
        }
    }
    text
}
