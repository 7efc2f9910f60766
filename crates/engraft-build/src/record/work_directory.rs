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
/// Its name until it is locked.
const NEW_OWNER: &str = ".owner.new";
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
        let temporary = std::env::temp_dir();
        remove_abandoned(&temporary);
        let (directory, owner) = make(&temporary)?;
        // Compilers may report paths without symbolic links.
        let path = fs::canonicalize(directory.path())?;
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

/// Makes a directory with a locked owner file in it.
///
/// Another build takes a directory for abandoned if its owner file is not locked. So the file gets
/// its name only after the lock.
fn make(temporary: &Path) -> io::Result<(TempDir, File)> {
    let directory = tempfile::Builder::new()
        .prefix(PREFIX)
        .tempdir_in(temporary)?;
    let new = directory.path().join(NEW_OWNER);
    let owner = File::create(&new)?;
    owner.lock()?;
    fs::rename(new, directory.path().join(OWNER))?;
    Ok((directory, owner))
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
        if is_ours && is_abandoned(&entry.path().join(OWNER)) {
            tracing::info!(directory = %entry.path().display(), "removes what a killed build left");
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether nobody holds the lock on this file, and the file is still there: a build that keeps its
/// directory removes the file before it gives the lock back.
fn is_abandoned(owner: &Path) -> bool {
    let Ok(file) = File::open(owner) else {
        return false;
    };
    file.try_lock().is_ok() && owner.exists()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn a_directory_of_a_build_that_runs_is_never_taken_for_abandoned() {
        let temporary = tempfile::tempdir().unwrap();
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                // ORDERING: only ends the loop; nothing is read because of it.
                while !ended.load(Ordering::Relaxed) {
                    remove_abandoned(temporary.path());
                }
            });
            let kept = (0..2000).all(|_| {
                let (directory, _owner) = make(temporary.path()).unwrap();
                directory.path().join(OWNER).exists()
            });
            // ORDERING: as above.
            ended.store(true, Ordering::Relaxed);
            assert!(kept);
        });
    }

    #[test]
    fn what_a_killed_build_left_is_removed() {
        let temporary = tempfile::tempdir().unwrap();
        let (directory, owner) = make(temporary.path()).unwrap();
        let path = directory.keep();
        remove_abandoned(temporary.path());
        assert!(path.exists());
        drop(owner);
        remove_abandoned(temporary.path());
        assert!(!path.exists());
    }
}
