//! The directory that a build works in: it is removed however the build ends.
//!
//! A second process, the guard, waits for the end of the first. If that was killed or interrupted,
//! the guard ends the build command's processes and removes the directory. If both were killed, the
//! next build removes it: a build holds a lock on a file in its directory.

use std::fs::{self, File};
use std::io::{self, BufRead as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::process::{Pid, Signal, getuid, kill_process_group};
use tempfile::TempDir;

const PREFIX: &str = "engraft-build-";
/// The file that is locked.
const OWNER: &str = ".owner";
/// Tells a guard from a plain start of the executable; its value is the directory.
const GUARD: &str = "ENGRAFT_BUILD_GUARD";
/// How often the guard tries to remove a directory in which killed processes may still be at work.
const ATTEMPTS: u32 = 50;

/// A private directory.
pub(crate) struct WorkDirectory {
    directory: Option<TempDir>,
    path: PathBuf,
    _owner: File,
    guard: Guard,
}

impl WorkDirectory {
    /// Makes one in the directory for temporary files. `executable` is one whose `main` begins with
    /// [`crate::wrapper_main`].
    pub(crate) fn new(executable: &Path) -> io::Result<Self> {
        remove_abandoned(&std::env::temp_dir());
        let directory = tempfile::Builder::new().prefix(PREFIX).tempdir()?;
        // Compilers may report paths without symbolic links.
        let path = fs::canonicalize(directory.path())?;
        let owner = File::create(path.join(OWNER))?;
        owner.lock()?;
        let guard = Guard::new(executable, &path)?;
        Ok(Self {
            directory: Some(directory),
            path,
            _owner: owner,
            guard,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Starts a command whose processes end with this one.
    pub(crate) fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        let child = command.process_group(0).spawn()?;
        self.guard.tell(&child.id().to_string());
        Ok(child)
    }

    /// The command has ended.
    pub(crate) fn ended(&self) {
        self.guard.tell("0");
    }

    /// Leaves the directory where it is.
    pub(crate) fn keep(&mut self) -> PathBuf {
        self.guard.tell("keep");
        if let Some(directory) = self.directory.take() {
            let _ = directory.keep();
        }
        let _ = fs::remove_file(self.path.join(OWNER));
        self.path.clone()
    }
}

/// The second process.
struct Guard {
    process: Child,
    pipe: Mutex<Option<ChildStdin>>,
}

impl Guard {
    fn new(executable: &Path, directory: &Path) -> io::Result<Self> {
        let mut process = Command::new(executable)
            .env(GUARD, directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // What a terminal sends to interrupt us is not for it.
            .process_group(0)
            .spawn()?;
        let pipe = Mutex::new(process.stdin.take());
        Ok(Self { process, pipe })
    }

    fn tell(&self, what: &str) {
        let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipe) = pipe.as_mut() {
            // The build works without a guard, too.
            let _ = writeln!(pipe, "{what}");
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let pipe = self.pipe.get_mut().unwrap_or_else(PoisonError::into_inner);
        drop(pipe.take());
        let _ = self.process.wait();
    }
}

/// What the guard does. `None` if this process is no guard.
pub(crate) fn guard_main() -> Option<ExitCode> {
    let directory = PathBuf::from(std::env::var_os(GUARD)?);
    let mut group = None;
    let mut keeps = false;
    for line in io::stdin().lock().lines() {
        match line {
            Ok(line) if line == "keep" => keeps = true,
            Ok(line) => group = line.parse().ok().and_then(Pid::from_raw),
            Err(_) => break,
        }
    }
    if let Some(group) = group {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let mut attempts = 0;
    while !keeps && directory.exists() && attempts < ATTEMPTS {
        let _ = fs::remove_dir_all(&directory);
        attempts += 1;
    }
    Some(ExitCode::SUCCESS)
}

/// Removes directories of builds that have ended.
fn remove_abandoned(temporary: &Path) {
    let Ok(entries) = fs::read_dir(temporary) else {
        return;
    };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            && entry
                .metadata()
                .is_ok_and(|directory| directory.is_dir() && directory.uid() == getuid().as_raw());
        let owner = File::open(entry.path().join(OWNER));
        if is_ours && owner.is_ok_and(|owner| owner.try_lock().is_ok()) {
            tracing::info!(directory = %entry.path().display(), "removes what a killed build left");
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
