//! Commands on several processes, one process after the other, each with its own line of result. A
//! failure in one does not keep the command from the others; the command ends with the first
//! failure.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use engraft::{
    AbsentObject, Applied, Error, ObjectPresence, OnTimeout, PatchPhase, Selected, exit_code,
};
use engraft_patch::Patch;
use engraft_process::foreign::escape_name;
use engraft_process::limits::LOOK_TIME;
use engraft_process::{OpenError, Process};

use super::concessions;
use super::show::{describe_other_build, describe_switchers, describe_unwinder};
use super::terminal::{complain, note, say};

/// How long the last of hundreds of threads of a killed process may take to end after the first one
/// that has ended.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a command starts again because the process has executed another program.
const MOST_PROGRAMS: usize = 5;

/// The processes that a patch is applied to, named in exactly one way.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct ProcessSelection {
    /// A process; may be given several times.
    #[arg(long, value_name = "PID")]
    pid: Vec<i32>,
    /// Every process that runs this file.
    #[arg(long, value_name = "PATH")]
    exe: Option<PathBuf>,
    /// Every process that has loaded something that the patch changes.
    #[arg(long)]
    all: bool,
}

/// The processes that have the patch or the agent that a command is about.
#[derive(Debug, clap::Args)]
pub(super) struct PatchedProcesses {
    /// A process; may be given several times. Without it: every process that has what is named.
    #[arg(long, value_name = "PID")]
    pid: Vec<i32>,
}

impl ProcessSelection {
    /// Finds the processes where no pid is given.
    fn find(&self, patch: &Patch) -> Result<Selected, Error> {
        match &self.exe {
            Some(path) => Selected::running(path),
            None => Selected::with_object_of(patch),
        }
    }

    /// The work on the named processes, or else on the processes that are found.
    ///
    /// # Errors
    /// [`Error::NoneSelected`] if none is found.
    fn work(&self, patch: &Patch) -> Result<Work, Error> {
        if !self.pid.is_empty() {
            return Ok(Work::with_numbers(&self.pid));
        }
        let selected = self.find(patch)?;
        report_out_of_reach(&selected.out_of_reach);
        let work = Work::on(selected).implicitly();
        let wanted = || match &self.exe {
            Some(path) => format!("runs {}", escape_name(path)),
            None => format!("has loaded anything that patch '{}' changes", patch.name),
        };
        match work.is_empty() {
            true => Err(Error::NoneSelected { wanted: wanted() }),
            false => Ok(work),
        }
    }
}

impl PatchedProcesses {
    /// The work on the named processes, or else on the processes that `find` finds.
    ///
    /// # Errors
    /// [`Error::NonePatched`] if none is found; `wanted` says what a process would have to have.
    fn work(
        &self,
        wanted: String,
        find: impl Fn() -> Result<Selected, Error>,
    ) -> Result<Work, Error> {
        if !self.pid.is_empty() {
            return Ok(Work::with_numbers(&self.pid));
        }
        let work = Work::on(find()?).implicitly();
        match work.is_empty() {
            true => Err(Error::NonePatched { wanted }),
            false => Ok(work),
        }
    }
}

/// The work on several processes, and what it has led to so far.
#[derive(Default)]
pub(super) struct Work {
    processes: Vec<(i32, Result<Process, OpenError>)>,
    /// Whether the processes were found, not named: then one that has ended meanwhile is no
    /// failure.
    implicit: bool,
    failed: Vec<i32>,
    first: Option<Error>,
    count: usize,
}

impl Work {
    /// Work on the processes that were found. Says how many could not be read.
    pub(super) fn on(selected: Selected) -> Self {
        report_hidden(&selected.hidden);
        let processes = selected.processes.into_iter();
        Self {
            processes: processes
                .map(|process| (process.pid(), Ok(process)))
                .collect(),
            ..Self::default()
        }
    }

    /// Work on the processes with these pids.
    pub(super) fn with_numbers(pids: &[i32]) -> Self {
        // Each once, in the order in which they were given.
        let mut seen = BTreeSet::new();
        let pids = pids.iter().filter(|pid| seen.insert(**pid));
        Self {
            processes: pids.map(|pid| (*pid, Process::open(*pid))).collect(),
            ..Self::default()
        }
    }

    /// The same work on processes that were found, not named.
    pub(super) fn implicitly(self) -> Self {
        Self {
            implicit: true,
            ..self
        }
    }

    fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }

    /// Calls `work` for each process, reports each failure, and returns the failure of the command.
    pub(super) fn each(
        mut self,
        work: impl FnMut(&Process) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.some(work);
        self.finish()
    }

    /// Calls `work` for each process that is left.
    fn some(&mut self, mut work: impl FnMut(&Process) -> Result<(), Error>) {
        let processes = std::mem::take(&mut self.processes);
        // With one process, the command itself ends with its error.
        let single = self.count + processes.len() == 1;
        if let Some(error) = self.first.as_ref().filter(|_| self.count == 1 && !single) {
            complain(error);
        }
        self.count += processes.len();
        for (pid, process) in processes {
            let done = process.map_err(Error::from).and_then(|it| {
                // If the process has ended, that is the cause of the failure.
                again_after_exec(it, &mut work).map_err(|(it, error)| {
                    let ended = match error.is_of_ended_thread() {
                        true => {
                            it.wait_for_end(END_TIMEOUT.min(it.time_left().unwrap_or(END_TIMEOUT)))
                        }
                        false => !it.is_alive(),
                    };
                    if ended { error.of_ended(pid) } else { error }
                })
            });
            let Err(error) = done else { continue };
            if self.implicit && error.exit_code() == exit_code::NO_SUCH_PROCESS {
                match error.is_exec() {
                    true => note(&format!("{error}")),
                    false => note(&format!("process {pid} has ended meanwhile")),
                }
                continue;
            }
            if !single {
                complain(&error);
            }
            self.failed.push(pid);
            self.first.get_or_insert(error);
        }
    }

    fn finish(self) -> Result<(), Error> {
        match self.first {
            None => Ok(()),
            Some(error) if self.count == 1 => Err(error),
            Some(error) => Err(Error::SomeFailed {
                failed: self.failed,
                of: self.count,
                exit_code: error.exit_code(),
            }),
        }
    }
}

/// Calls `work`, and calls it again if the process executes another program meanwhile. An error
/// comes with the process as it was opened last.
fn again_after_exec(
    mut process: Process,
    work: &mut impl FnMut(&Process) -> Result<(), Error>,
) -> Result<(), (Process, Error)> {
    let mut programs = 1;
    loop {
        let Err(error) = work(&process) else {
            return Ok(());
        };
        if !process.is_alive() {
            return Err((process, error));
        }
        let error = error.with_cause(&process);
        if !error.is_exec() || programs == MOST_PROGRAMS {
            return Err((process, error));
        }
        programs += 1;
        match Process::open(process.pid()) {
            Ok(opened) => process = opened,
            Err(error) => return Err((process, error.into())),
        }
    }
}

/// Says in one line how many processes could not be read, and why.
fn report_hidden(hidden: &[(i32, Error)]) {
    let denied = hidden
        .iter()
        .filter(|(_, error)| error.exit_code() == exit_code::PERMISSION_DENIED)
        .count();
    let other = hidden
        .iter()
        .find(|(_, error)| error.exit_code() != exit_code::PERMISSION_DENIED);
    let mut reasons = Vec::new();
    if denied > 0 {
        reasons.push(format!("no permission for {denied}"));
    }
    if let Some((_, error)) = other {
        reasons.push(error.to_string());
    }
    if !hidden.is_empty() {
        let (count, reasons) = (
            count(hidden.len(), "process", "processes"),
            reasons.join("; "),
        );
        note(&format!("{count} could not be looked at: {reasons}"));
    }
}

/// Says which processes were passed over because this user could never patch them.
fn report_out_of_reach(pids: &[i32]) {
    if !pids.is_empty() {
        let pids: Vec<_> = pids.iter().map(ToString::to_string).collect();
        note(&format!(
            "passed over what has privileges that this user has not: {}",
            pids.join(", ")
        ));
    }
}

/// A number of things in words.
fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

pub(super) fn apply(
    patch: &Patch,
    target: &ProcessSelection,
    timeout: Duration,
    end: OnTimeout,
) -> Result<(), Error> {
    let mut work = target.work(patch)?;
    if !work.implicit {
        return work.each(|process| apply_to(process, patch, timeout, end));
    }
    let mut seen = BTreeSet::new();
    loop {
        seen.extend(work.processes.iter().map(|(pid, _)| *pid));
        work.some(|process| apply_to(process, patch, timeout, end));
        // A process may have forked before it was patched. A child of a patched process has the
        // patch, so no more are found in the end.
        let born = target.find(patch)?.processes.into_iter();
        let born =
            born.filter(|process| !seen.contains(&process.pid()) && !has(process, &patch.name));
        work.processes = born.map(|process| (process.pid(), Ok(process))).collect();
        if work.is_empty() {
            return work.finish();
        }
    }
}

/// Whether the patch is enabled in the process.
fn has(process: &Process, name: &str) -> bool {
    process.limit_time(LOOK_TIME);
    let patches = engraft::status(process).map(|status| status.patches);
    let mut patches = patches.unwrap_or_default().into_iter();
    patches.any(|patch| patch.name == name && patch.state != PatchPhase::Disabled)
}

fn apply_to(
    process: &Process,
    patch: &Patch,
    timeout: Duration,
    end: OnTimeout,
) -> Result<(), Error> {
    let applied = engraft::apply(process, patch, timeout);
    let applied = applied.map_err(|error| end.settle(process, &patch.name, error))?;
    say_applied(process.pid(), &patch.name, "applied to", applied);
    note_limits(process, &patch.name);
    note_switchers(process);
    Ok(())
}

/// Says how the process switches stacks, if it does.
fn note_switchers(process: &Process) {
    let switchers = engraft::stack_switchers(process).unwrap_or_default();
    if let Some(words) = describe_switchers(&switchers) {
        note(&format!("process {}: {words}", process.pid()));
    }
}

fn say_applied(pid: i32, name: &str, verb: &str, applied: Applied) {
    match applied {
        Applied::Already => say(&format!("patch '{name}' is already {verb} process {pid}\n")),
        Applied::Now { presence, .. } if !presence.any_loaded => {
            say_nothing_to_patch(pid, &presence, "waits")
        }
        Applied::Now {
            presence,
            stopped_for,
        } => {
            say(&format!(
                "patch '{name}' {verb} process {pid}, stopped for {stopped_for:.1?}\n"
            ));
            say_waiting(pid, &presence.absent);
        }
    }
}

/// Says which unwinders do not get through new code, and which modules are other builds of what the
/// patch changes.
fn note_limits(process: &Process, name: &str) {
    let pid = process.pid();
    process.limit_time(LOOK_TIME);
    let Ok(mut status) = engraft::status(process) else {
        return;
    };
    for words in status.unwinders.iter().filter_map(describe_unwinder) {
        note(&format!("process {pid}: {words}"));
    }
    // A failure to find them is ignored: the patch is applied all the same.
    let _ = engraft::find_other_builds(process, &mut status);
    let patches = status.patches.iter().filter(|patch| patch.name == name);
    for object in patches.flat_map(|patch| &patch.objects) {
        for other in &object.other_builds {
            note(&format!(
                "process {pid}: {}",
                describe_other_build(object, other)
            ));
        }
    }
}

/// Says that a patch waits, or would wait, for all of its objects.
fn say_nothing_to_patch(pid: i32, presence: &ObjectPresence, waits: &str) {
    let objects: Vec<_> = presence.absent.iter().map(ToString::to_string).collect();
    say(&format!(
        "nothing to patch in process {pid}: it has loaded none of {}; the patch {waits}\n",
        objects.join(", ")
    ));
}

fn say_waiting(pid: i32, absent: &[AbsentObject]) {
    for object in absent {
        say(&format!(
            "{object} is not loaded in process {pid}: the patch waits for it\n"
        ));
    }
}

pub(super) fn check(
    patch: &Patch,
    target: &ProcessSelection,
    timeout: Duration,
) -> Result<(), Error> {
    say(&concessions(patch));
    target
        .work(patch)?
        .each(|process| check_one(process, patch, timeout))
}

fn check_one(process: &Process, patch: &Patch, timeout: Duration) -> Result<(), Error> {
    let (pid, name) = (process.pid(), &patch.name);
    let checked = engraft::check(process, patch, timeout)?;
    for doubt in checked.doubts {
        say(&format!("process {pid}: {doubt}\n"));
    }
    let mut problems = checked.problems.into_iter();
    let first = problems.next();
    // The objects that the patch would wait for are listed even if there are problems.
    match first {
        None if !checked.presence.any_loaded && !checked.already => {
            say_nothing_to_patch(pid, &checked.presence, "would wait");
            return Ok(());
        }
        _ if !checked.presence.any_loaded => {}
        _ => say_waiting(pid, &checked.presence.absent),
    }
    let Some(first) = first else {
        say(&match checked.already {
            true => format!("patch '{name}' is already applied to process {pid}\n"),
            false => format!("patch '{name}' can be applied to process {pid}\n"),
        });
        return Ok(());
    };
    // The first one is what the command ends with.
    problems.for_each(|problem| complain(&problem));
    Err(first)
}

pub(super) fn disable(
    name: &str,
    processes: PatchedProcesses,
    timeout: Duration,
) -> Result<(), Error> {
    let wanted = format!("has an enabled patch '{name}'");
    let work = processes.work(wanted, || Selected::with_enabled_patch(name))?;
    work.each(|process| {
        let disabled = engraft::disable(process, name, timeout)?;
        let (pid, stopped_for) = (process.pid(), disabled.stopped_for);
        say(&format!(
            "patch '{name}' disabled in process {pid}, stopped for {stopped_for:.1?}\n"
        ));
        Ok(())
    })
}

pub(super) fn enable(
    name: &str,
    processes: PatchedProcesses,
    timeout: Duration,
    end: OnTimeout,
) -> Result<(), Error> {
    let work = processes.work(has_patch(name), || Selected::with_patch(name))?;
    work.each(|process| {
        let enabled = engraft::enable(process, name, timeout);
        let enabled = enabled.map_err(|error| end.settle(process, name, error))?;
        say_applied(process.pid(), name, "enabled in", enabled);
        note_limits(process, name);
        Ok(())
    })
}

pub(super) fn wait(
    name: Option<&str>,
    processes: PatchedProcesses,
    timeout: Duration,
) -> Result<(), Error> {
    let what = name.map_or_else(|| "a patch".to_owned(), |name| format!("patch '{name}'"));
    let wanted = format!("has {what} in transition");
    let work = processes.work(wanted, || Selected::in_transition(name))?;
    work.each(|process| {
        engraft::wait(process, name, timeout)?;
        let pid = process.pid();
        say(&format!("every thread of process {pid} has switched\n"));
        Ok(())
    })
}

pub(super) fn force(
    name: &str,
    processes: PatchedProcesses,
    timeout: Duration,
) -> Result<(), Error> {
    let wanted = format!("has patch '{name}' in transition");
    let work = processes.work(wanted, || Selected::in_transition(Some(name)))?;
    work.each(|process| {
        engraft::force(process, name, timeout)?;
        let pid = process.pid();
        say(&format!(
            "transition of patch '{name}' ended by force in process {pid}\n"
        ));
        Ok(())
    })
}

pub(super) fn remove(
    name: &str,
    processes: PatchedProcesses,
    timeout: Duration,
) -> Result<(), Error> {
    let work = processes.work(has_patch(name), || Selected::with_patch(name))?;
    work.each(|process| {
        let removed = engraft::remove(process, name, timeout)?;
        let (pid, stays) = (process.pid(), removed.stays);
        say(&format!("patch '{name}' removed from process {pid}\n"));
        if stays > 0 {
            say(&format!(
                "{stays} bytes of it stay in process {pid}: the program may hold addresses of functions there\n"
            ));
        }
        Ok(())
    })
}

pub(super) fn remove_agent(processes: PatchedProcesses, timeout: Duration) -> Result<(), Error> {
    let work = processes.work("has an agent".to_owned(), Selected::with_agent)?;
    work.each(|process| {
        let pid = process.pid();
        say(&match engraft::remove_agent(process, timeout)? {
            true => format!("agent removed from process {pid}\n"),
            false => format!("process {pid} has no agent\n"),
        });
        Ok(())
    })
}

fn has_patch(name: &str) -> String {
    format!("has a patch '{name}'")
}
