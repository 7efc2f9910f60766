//! The command line: what the user can ask for, and how the answers are printed.
//!
//! This folder must not know how a command does its work: it uses only the public names of the
//! crate.

mod building;
#[cfg(test)]
mod documented;
mod processes;
mod show;
mod terminal;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgGroup, Parser, Subcommand};
use engraft::{Error, OnTimeout, ScanMemory, Selected, Status};
use engraft_build::{BuildOutcome, BuildRequest};
use engraft_patch::{Concessions, Missing, Patch};
use engraft_process::foreign::escape_name;
use engraft_process::{LongSlice, Process};

use processes::{PatchedProcesses, ProcessSelection, Work};
use show::describe;
pub(crate) use terminal::{Log, complain};
use terminal::{note, say};

/// Fixes running programs: builds a patch from a source fix, applies it to processes, takes it
/// back.
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
        /// Make the patch also if part of what the fix changes is in none of the binaries. The
        /// patch is marked as partial.
        #[arg(long)]
        partial: bool,
        /// A type whose layout the fix changes, and of which nothing is alive in a process when the
        /// patch is applied; may be given several times. The patch says so.
        #[arg(long, value_name = "TYPE")]
        accept_layout: Vec<String>,
        /// Where the whole output of the build command goes.
        #[arg(long, value_name = "FILE")]
        log: Option<PathBuf>,
        /// Leave the directory in which the build takes place, and say where it is.
        #[arg(long)]
        keep: bool,
        /// What builds the source, run in a copy of it.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Apply a patch to a running process. A library that is not loaded is patched when it is.
    Apply {
        /// The patch, made by `engraft build`.
        file: PathBuf,
        #[command(flatten)]
        target: ProcessSelection,
        #[command(flatten)]
        wait: WaitArguments,
        #[command(flatten)]
        end: TimeoutArguments,
    },
    /// Say what would keep a patch from being applied to a process. Touches nothing; ends with the
    /// exit code that `apply` would end with.
    Check {
        /// The patch, made by `engraft build`.
        file: PathBuf,
        #[command(flatten)]
        target: ProcessSelection,
        #[command(flatten)]
        wait: WaitArguments,
    },
    /// Show the patches of a process in the order in which they were enabled, disabled ones last.
    /// Without --pid: of all processes that have an agent.
    Status {
        /// A process; may be given several times.
        #[arg(long, value_name = "PID")]
        pid: Vec<i32>,
        /// For programs: one JSON object with one --pid, otherwise an array of such objects.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        wait: WaitArguments,
    },
    /// Have processes run their own code again instead of a patch's. Its memory stays, because new
    /// code may have passed on addresses of its data.
    Disable {
        /// The patch's name.
        name: String,
        #[command(flatten)]
        processes: PatchedProcesses,
        #[command(flatten)]
        wait: WaitArguments,
    },
    /// Wait until every thread has switched, where a patch is in transition.
    Wait {
        /// The patch's name; any patch without it.
        name: Option<String>,
        #[command(flatten)]
        processes: PatchedProcesses,
        #[command(flatten)]
        wait: WaitArguments,
    },
    /// End a patch's transition, wherever threads are. A thread that is still inside of what should
    /// be left goes on there, so the fix's parts may mix; what it may be inside of stays in memory
    /// for ever.
    Force {
        /// The patch's name.
        name: String,
        #[command(flatten)]
        processes: PatchedProcesses,
        #[command(flatten)]
        wait: WaitArguments,
    },
    /// Enable a disabled patch again; it is the newest one then.
    Enable {
        /// The patch's name.
        name: String,
        #[command(flatten)]
        processes: PatchedProcesses,
        #[command(flatten)]
        wait: WaitArguments,
        #[command(flatten)]
        end: TimeoutArguments,
    },
    /// Take the memory of a disabled patch, or the agent, out of processes.
    #[command(group(ArgGroup::new("places").args(["pid", "all"])))]
    Remove {
        /// The patch's name.
        #[arg(required_unless_present = "agent", conflicts_with = "agent")]
        name: Option<String>,
        /// The agent instead of a patch: nothing of engraft is left then. It must know no patch any
        /// more. Asks for --pid or --all.
        #[arg(long, requires = "places")]
        agent: bool,
        /// With --agent: every process of this machine that has one.
        #[arg(long, requires = "agent", conflicts_with = "name")]
        all: bool,
        #[command(flatten)]
        processes: PatchedProcesses,
        #[command(flatten)]
        wait: WaitArguments,
    },
}

/// A year, in seconds.
const LONGEST_TIMEOUT: u64 = 365 * 24 * 60 * 60;

#[derive(Debug, clap::Args)]
struct WaitArguments {
    /// How long to work on each process, and wait for its threads to leave the code that is to be
    /// replaced, in seconds. A transition that has begun stays open after that.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(..=LONGEST_TIMEOUT)
    )]
    timeout: u64,
    /// Whether to look through all writable memory for contexts (coroutines, fibers) that are
    /// suspended in the code that is to be left or taken away. `auto`: in programs that are known
    /// to switch stacks.
    #[arg(
        long,
        value_name = "WHEN",
        value_enum,
        default_value = "auto",
        default_missing_value = "on",
        num_args = 0..=1,
        require_equals = true
    )]
    scan_memory: ScanMemoryArgument,
}

/// When memory is scanned for suspended contexts.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ScanMemoryArgument {
    Auto,
    On,
    Off,
}

impl WaitArguments {
    /// The timeout. The time that the command has waited for a processor until now counts: next to
    /// hundreds of threads that compute, the start of a program takes a second. Sets for the whole
    /// command whether memory is scanned.
    fn duration(&self) -> Duration {
        engraft::set_scan_memory(match self.scan_memory {
            ScanMemoryArgument::Auto => ScanMemory::Auto,
            ScanMemoryArgument::On => ScanMemory::On,
            ScanMemoryArgument::Off => ScanMemory::Off,
        });
        Duration::from_secs(self.timeout).saturating_sub(late())
    }
}

/// How late the command has begun, in whole milliseconds; zero if nobody would notice.
fn late() -> Duration {
    const NOTICED: Duration = Duration::from_millis(20);
    let late = engraft_process::time_waited();
    match late < NOTICED {
        true => Duration::ZERO,
        false => Duration::from_millis(late.as_millis().try_into().unwrap_or(u64::MAX)),
    }
}

/// The option `--on-timeout`.
#[derive(Debug, clap::Args)]
struct TimeoutArguments {
    /// What becomes of the patch if threads have yet to switch to it when the time is up.
    #[arg(long, value_name = "WHAT", value_enum, default_value_t)]
    on_timeout: OnTimeoutArgument,
}

#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum OnTimeoutArgument {
    /// The transition stays open.
    #[default]
    Leave,
    /// The patch is taken back.
    Reverse,
}

impl From<TimeoutArguments> for OnTimeout {
    fn from(end: TimeoutArguments) -> Self {
        match end.on_timeout {
            OnTimeoutArgument::Leave => Self::Leave,
            OnTimeoutArgument::Reverse => Self::Reverse,
        }
    }
}

/// Runs the command.
pub(crate) fn run(CommandLine { command }: CommandLine) -> Result<(), Error> {
    // The command gives way to the programs that it patches, also while it only reads files.
    let _way = (!matches!(command, Command::Build { .. })).then(LongSlice::begin_at_birth);
    match command {
        Command::Build {
            source,
            patch,
            binary,
            name,
            output,
            partial,
            accept_layout,
            log,
            keep,
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
            partial,
            accept_layouts: accept_layout,
            log,
            keep,
            progress: building::progress(),
        }),
        Command::Apply {
            file,
            target,
            wait,
            end,
        } => processes::apply(&read_patch(&file)?, &target, wait.duration(), end.into()),
        Command::Check { file, target, wait } => {
            processes::check(&read_patch(&file)?, &target, wait.duration())
        }
        Command::Status { pid, json, wait } => status(&pid, json, wait.duration()),
        Command::Disable {
            name,
            processes,
            wait,
        } => processes::disable(&name, processes, wait.duration()),
        Command::Wait {
            name,
            processes,
            wait,
        } => processes::wait(name.as_deref(), processes, wait.duration()),
        Command::Force {
            name,
            processes,
            wait,
        } => processes::force(&name, processes, wait.duration()),
        Command::Enable {
            name,
            processes,
            wait,
            end,
        } => processes::enable(&name, processes, wait.duration(), end.into()),
        Command::Remove {
            name,
            processes,
            wait,
            ..
        } => match name {
            Some(name) => processes::remove(&name, processes, wait.duration()),
            None => processes::remove_agent(processes, wait.duration()),
        },
    }
}

fn build(request: &BuildRequest) -> Result<(), Error> {
    let report = engraft_build::build(request)?;
    let BuildOutcome::Patch { patch, file } = report.outcome else {
        let binaries = list(request.binaries.iter().map(escape_name));
        say(&format!(
            "the fix changes no code in {binaries}: there is nothing to patch\n"
        ));
        return Ok(());
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
        escape_name(&path)
    ));
    for object in &report.objects {
        let (binary, changed) = (escape_name(&object.binary), list(&object.changed));
        say(&format!("  {binary}: changes {changed}\n"));
        if !object.new.is_empty() {
            say(&format!("  {binary}: adds {}\n", list(&object.new)));
        }
    }
    say(&concessions(&patch));
    for binary in &request.binaries {
        if !report.objects.iter().any(|object| object.binary == *binary) {
            let binary = binary.display();
            eprintln!("note: nothing that the fix changes is in {binary}");
        }
    }
    for (name, argument) in &report.harmless {
        note(&format!("the fix changes the layout of {name}: {argument}"));
    }
    if !report.unread.is_empty() {
        let files = list(report.unread.iter().map(escape_name));
        note(&format!(
            "the fix also changes {files}, which no recorded compile reads: that is not in the patch, unless the \
             build makes C of it or it says how to build"
        ));
    }
    Ok(())
}

/// What the author of a patch has accepted, a line for each.
fn concessions(patch: &Patch) -> String {
    let Concessions {
        missing,
        accepted_layouts,
    } = &patch.concessions;
    let mut text = String::new();
    for Missing { name, source_file } in missing {
        text.push_str(&format!(
            "  partial: {name} of {source_file} is not in the patch\n"
        ));
    }
    for name in accepted_layouts {
        text.push_str(&format!(
            "  accepted: {name} has another layout in the patch than in memory\n"
        ));
    }
    text
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items
        .into_iter()
        .map(|item| item.to_string())
        .collect::<Vec<_>>()
        .join(", ")
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

fn status(pids: &[i32], json: bool, timeout: Duration) -> Result<(), Error> {
    let work = match pids {
        [] => Work::on(Selected::with_agent()?).implicitly(),
        pids => Work::with_numbers(pids),
    };
    // An object for one named process, otherwise an array. Each status is written at once: all of
    // them together might not fit into memory.
    let is_single = matches!(pids, [_]);
    let mut count = 0;
    let result = work.each(|process| {
        let status = full_status(process, timeout)?;
        let start = match count {
            _ if is_single => "",
            0 => "[",
            _ => ",",
        };
        let end = if is_single { "\n" } else { "" };
        say(&match json {
            true => format!("{start}{}{end}", json_of(&status)),
            false => describe(&status),
        });
        count += 1;
        Ok(())
    });
    match (json, count) {
        // Where the only status is an error, there is no JSON.
        (true, _) if is_single => {}
        (true, 0) => say("[]\n"),
        (true, _) => say("]\n"),
        (false, 0) if pids.is_empty() => say("no process has an agent\n"),
        (false, _) => {}
    }
    result
}

fn json_of(status: &Status) -> String {
    // Only a map with keys that are no strings could fail, and a status has none.
    serde_json::to_string(status).unwrap_or_default()
}

/// The status, with the blockers of an open transition, and with the modules that are other builds
/// of what is patched.
fn full_status(process: &Process, timeout: Duration) -> Result<Status, Error> {
    process.limit_time(timeout);
    let mut status = engraft::status(process)?;
    status.switchers = engraft::stack_switchers(process)?;
    if let Some(transition) = &mut status.transition {
        match engraft::blockers(process) {
            Ok(threads) => transition.threads = threads,
            Err(error) if !process.is_alive() => return Err(error),
            // The rest of the status is true all the same.
            Err(error) => note(&format!("cannot look at the threads: {error}")),
        }
    }
    match engraft::find_other_builds(process, &mut status) {
        Err(error) if !process.is_alive() => return Err(error),
        Err(error) => note(&format!("cannot look for other builds: {error}")),
        Ok(()) => {}
    }
    Ok(status)
}
