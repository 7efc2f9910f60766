//! One controller at a time.
//!
//! There are two locks, because none of them works among all controllers:
//!
//! - The *own* lock is among controllers of one user. It is a byte, numbered like the process, of
//!   one file that only this user can open: for root in `/run/engraft`, for others in their runtime
//!   directory. The process cannot interfere. The lock belongs to an open file, so it ends with its
//!   owner, and the file does not grow.
//! - The *shared* lock is among controllers of different users. It is an `flock` on the process's
//!   directory of file descriptors in /proc, which every user can open who may trace the process.
//!   But the process itself and any process of its user can open it, too. So the lock counts only
//!   as far as its owner may be a controller, and root waits for an ordinary user's lock for
//!   [`PATIENCE`] at most.
//!
//! If the own lock cannot be taken (`/run` is read-only, say), the shared one counts in any case.
//! Controllers that see the process through different mounts of /proc (from inside and outside of a
//! container) do not see each other's locks.

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

/// How long root waits for a lock that an ordinary user holds. A controller seldom holds it for
/// that long at a time.
const PATIENCE: Duration = Duration::from_secs(2);

/// The right to work on a process, which one controller has at a time. The right ends with its
/// owner, however that ends.
#[derive(Debug)]
pub struct ProcessLock {
    _own: Option<File>,
    _shared: Option<File>,
}

impl Process {
    /// Takes the lock if it is free; `None` if another controller has it. The lock of a process
    /// that has ended is free. `waited` is how long the lock has not been free.
    ///
    /// # Errors
    /// What the system reports. That there is no place for the own lock is no error.
    pub fn try_lock(&self, waited: Duration) -> io::Result<Option<ProcessLock>> {
        let own = match own_lock_file() {
            Ok(file) if !try_lock_byte(&file, self.pid().into())? => return Ok(None),
            Ok(file) => Some(file),
            Err(error) => {
                tracing::debug!(%error, "no lock of our own; only the one in /proc is used");
                None
            }
        };
        // ORDERING: only an earlier call of this thread matters; another thread would come to the
        // same result.
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

    /// Whether the owner of the shared lock may be a controller, so that we wait for it.
    fn may_be_controllers(&self, directory: &File, waited: Duration) -> io::Result<bool> {
        let owner = lock_owner(directory)?;
        let real_user = |tid| Task::new(tid, tid).status().ok()??.real_user;
        Ok(match owner {
            // No process is its own controller.
            Some(owner) if owner == self.pid() => false,
            Some(owner) if real_user(owner) == Some(0) => true,
            _ => !geteuid().is_root() || waited < PATIENCE,
        })
    }
}

/// The process that took the `flock` on this file, if we can see it.
fn lock_owner(file: &File) -> io::Result<Option<i32>> {
    let facts = fstat(file)?;
    let (major, minor) = (
        rustix::fs::major(facts.st_dev),
        rustix::fs::minor(facts.st_dev),
    );
    let place = format!("{major:02x}:{minor:02x}:{}", facts.st_ino);
    let text = std::fs::read_to_string("/proc/locks")?;
    Ok(text.lines().find_map(|line| parse_lock_owner(line, &place)))
}

/// From a line like `1: FLOCK  ADVISORY  WRITE 1234 00:16:5678 0 EOF`.
pub(super) fn parse_lock_owner(line: &str, place: &str) -> Option<i32> {
    let mut words = line.split_ascii_whitespace();
    // A line with an arrow is about a process that waits: the words after it are one place later.
    let kind = words.nth(1)?;
    let pid = words.nth(2)?.parse().ok()?;
    (kind == "FLOCK" && words.next()? == place).then_some(pid)
}

/// Opens the file of which each byte is a lock.
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

/// Opens the file in the directory `engraft` below `parent`. No other user may be able to open the
/// file, or to put another one in its place.
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
        false => Err(io::Error::other(
            "other users can reach the place of the lock",
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn an_owner_is_found_by_its_file() {
        let lines = [
            "1: FLOCK  ADVISORY  WRITE 29807 00:15:208742 0 EOF",
            "1: -> FLOCK  ADVISORY  WRITE 29808 00:15:208742 0 EOF",
            "2: POSIX  ADVISORY  WRITE 29809 00:15:208742 0 EOF",
        ];
        let found = lines.map(|line| parse_lock_owner(line, "00:15:208742"));
        assert_eq!(found, [Some(29807), None, None]);
        assert_eq!(parse_lock_owner(lines[0], "00:15:20874"), None);
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
