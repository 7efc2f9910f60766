//! What the user can ask for, and what is answered.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, Subcommand};
use engraft::{Applied, Error, PatchState, Status};
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
        Applied::Already => println!("patch '{name}' is already applied to process {pid}"),
        Applied::Now {
            waiting,
            stopped_for,
        } => {
            println!("patch '{name}' applied to process {pid}, stopped for {stopped_for:.1?}");
            for object in waiting {
                println!(
                    "{} (build-id {}) is not loaded: the patch waits for it",
                    object.file_name, object.build_id
                );
            }
        }
    }
    Ok(())
}

fn disable(name: &str, pid: i32, timeout: Duration) -> Result<(), Error> {
    let process = Process::open(pid)?;
    let disabled = engraft::disable(&process, name, timeout)?;
    let stopped_for = disabled.stopped_for;
    println!("patch '{name}' disabled in process {pid}, stopped for {stopped_for:.1?}");
    Ok(())
}

fn status(pid: i32, json: bool) -> Result<(), Error> {
    let process = Process::open(pid)?;
    let status = engraft::status(&process)?;
    if json {
        println!("{}", serde_json::json!(status));
    } else {
        print!("{}", describe(&status));
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
