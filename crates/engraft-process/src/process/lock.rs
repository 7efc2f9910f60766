//! One controller at a time.
//!
//! There are two locks, because no single one does for everybody:
//!
//! - The *own* lock is a byte, numbered like the process, of one file that only this user can open: for root in
//!   `/run/engraft`, for others in their runtime directory. Controllers of one user exclude each other by it, whatever
//!   the process does. It belongs to an open file, so it ends with its owner, and the file does not grow.
//! - The *shared* lock is an `flock` on the process's directory of file descriptors in /proc. Controllers of different
//!   users exclude each other by it: those can open it who may trace the process. But so can the process itself, and
//!   anybody of its user. So it counts only as far as its holder may be a controller, and root waits for an ordinary
//!   user's for [`PATIENCE`] at most.
//!
//! Where the own lock cannot be had (`/run` is read-only, say), the shared one counts in any case.
//! Controllers that see the process through different mounts of /proc (from inside and outside of a container) do not
//! see each other's.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags, fstat, mkdir, open, openat};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::process::handle::Process;
use crate::process::task::{Task, or_gone};
use crate::sys::range_lock::try_lock_byte;

/// How long root waits for a lock that an ordinary user holds. A controller seldom holds it for that long at a time.
const PATIENCE: Duration = Duration::from_secs(2);

/// The right to work on a process, which one controller has at a time. It ends with its owner, however that
/// ends.
#[derive(Debug)]
pub struct ProcessLock {
    _own: Option<File>,
    _shared: Option<File>,
}

impl Process {
    /// Takes the lock if it is free; `None` if another controller has it. Of a process that has ended, it is
    /// free. `waited` is for how long it has not been free.
    pub fn try_lock(&self, waited: Duration) -> io::Result<Option<ProcessLock>> {
        let own = match own_lock_file() {
            Ok(file) if !try_lock_byte(&file, self.pid().into())? => return Ok(None),
            Ok(file) => Some(file),
            Err(error) => {
                tracing::debug!(%error, "no lock of our own; the one in /proc has to do");
                None
            }
        };
        // ORDERING: only this thread's earlier call matters; another one would come to the same result.
        let ignored = self.shared.ignores_shared_lock.load(Ordering::Relaxed);
        let Some(directory) = or_gone(File::open(format!("/proc/{}/fd", self.pid())))? else {
            return Ok(Some(ProcessLock {
                _own: own,
                _shared: None,
            }));
        };
        let shared = match directory.try_lock() {
            Ok(()) => Some(directory),
            Err(TryLockError::WouldBlock) if own.is_none() => return Ok(None),
            Err(TryLockError::WouldBlock) if ignored => None,
            Err(TryLockError::WouldBlock) if self.may_be_controllers(&directory, waited)? => {
                return Ok(None);
            }
            Err(TryLockError::WouldBlock) => {
                tracing::info!(
                    pid = self.pid(),
                    "a lock on the process is not another controller's"
                );
                // ORDERING: as above.
                self.shared
                    .ignores_shared_lock
                    .store(true, Ordering::Relaxed);
                None
            }
            Err(TryLockError::Error(error)) => return Err(error),
        };
        Ok(Some(ProcessLock {
            _own: own,
            _shared: shared,
        }))
    }

    /// Whether the holder of the shared lock is to be waited for.
    fn may_be_controllers(&self, directory: &File, waited: Duration) -> io::Result<bool> {
        let holder = holder(directory)?;
        let real_user = |tid| Task::new(tid, tid).status().ok()??.real_user;
        Ok(match holder {
            // No process is its own controller.
            Some(holder) if holder == self.pid() => false,
            Some(holder) if real_user(holder) == Some(0) => true,
            _ => !geteuid().is_root() || waited < PATIENCE,
        })
    }
}

/// The process that took the `flock` on this file, if it can be seen.
fn holder(file: &File) -> io::Result<Option<i32>> {
    let facts = fstat(file)?;
    let (major, minor) = (
        rustix::fs::major(facts.st_dev),
        rustix::fs::minor(facts.st_dev),
    );
    let place = format!("{major:02x}:{minor:02x}:{}", facts.st_ino);
    let text = std::fs::read_to_string("/proc/locks")?;
    Ok(text.lines().find_map(|line| parse_holder(line, &place)))
}

/// From a line like `1: FLOCK  ADVISORY  WRITE 1234 00:16:5678 0 EOF`.
fn parse_holder(line: &str, place: &str) -> Option<i32> {
    let mut words = line.split_ascii_whitespace();
    // Behind an arrow there are those who wait.
    let kind = words.nth(1)?;
    let pid = words.nth(2)?.parse().ok()?;
    (kind == "FLOCK" && words.next()? == place).then_some(pid)
}

/// The file of which each byte is a lock, opened.
fn own_lock_file() -> io::Result<File> {
    let parent = match geteuid().is_root() {
        true => PathBuf::from("/run"),
        false => match std::env::var_os("XDG_RUNTIME_DIR") {
            Some(path) => path.into(),
            None => format!("/run/user/{}", geteuid().as_raw()).into(),
        },
    };
    lock_file_in(&parent)
}

/// The same in a given directory. Nobody else may be able to open it, or to put another one in its place.
fn lock_file_in(parent: &Path) -> io::Result<File> {
    let path = parent.join("engraft");
    match mkdir(&path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = open(&path, flags, Mode::empty())?;
    expect_own(&fstat(&directory)?, FileType::Directory)?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = openat(
        &directory,
        "lock",
        flags | OFlags::CLOEXEC,
        Mode::RUSR | Mode::WUSR,
    )?;
    expect_own(&fstat(&file)?, FileType::RegularFile)?;
    Ok(file.into())
}

fn expect_own(facts: &rustix::fs::Stat, kind: FileType) -> io::Result<()> {
    let is_private = facts.st_uid == geteuid().as_raw()
        && Mode::from_raw_mode(facts.st_mode)
            .intersection(Mode::RWXG | Mode::RWXO)
            .is_empty();
    match is_private && FileType::from_raw_mode(facts.st_mode) == kind {
        true => Ok(()),
        false => Err(io::Error::other("the place of the lock is not ours alone")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_holder_is_found_by_its_file() {
        let lines = [
            "1: FLOCK  ADVISORY  WRITE 29807 00:15:208742 0 EOF",
            "1: -> FLOCK  ADVISORY  WRITE 29808 00:15:208742 0 EOF",
            "2: POSIX  ADVISORY  WRITE 29809 00:15:208742 0 EOF",
        ];
        let found = lines.map(|line| parse_holder(line, "00:15:208742"));
        assert_eq!(found, [Some(29807), None, None]);
        assert_eq!(parse_holder(lines[0], "00:15:20874"), None);
    }

    #[test]
    fn each_byte_is_a_lock_that_ends_with_its_file() {
        let parent = tempfile::tempdir().unwrap();
        let open = || lock_file_in(parent.path()).unwrap();
        let (first, second) = (open(), open());
        assert!(try_lock_byte(&first, 7).unwrap());
        assert!(!try_lock_byte(&second, 7).unwrap());
        assert!(try_lock_byte(&second, 8).unwrap());
        drop(first);
        assert!(try_lock_byte(&second, 7).unwrap());
        assert_eq!(second.metadata().unwrap().len(), 0);
    }

    #[test]
    fn a_place_that_others_reach_is_none() {
        let parent = tempfile::tempdir().unwrap();
        let place = parent.path().join("engraft");
        std::fs::create_dir(&place).unwrap();
        let permit = |mode| std::fs::set_permissions(&place, PermissionsExt::from_mode(mode));
        permit(0o755).unwrap();
        lock_file_in(parent.path()).unwrap_err();
        permit(0o700).unwrap();
        symlink("/dev/null", place.join("lock")).unwrap();
        lock_file_in(parent.path()).unwrap_err();
    }
}
