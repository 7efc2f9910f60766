//! One controller at a time.

use std::fs::{File, TryLockError};
use std::io;

use crate::process::Process;
use crate::task::or_gone;

/// The right to work on a process, which one controller has at a time. It ends with its owner, however that
/// ends.
///
/// It is an `flock` on the process's directory of file descriptors in /proc: there is one such directory
/// for a process, only those can open it who may trace the process, and it leaves nothing behind.
/// Controllers that see the process through different mounts of /proc (from inside and outside of a
/// container) do not see each other's.
#[derive(Debug)]
pub struct ProcessLock {
    _directory: File,
}

impl Process {
    /// Takes the lock if it is free; `None` if another controller has it. Of a process that has ended, it is
    /// free.
    pub fn try_lock(&self) -> io::Result<Option<ProcessLock>> {
        let path = format!("/proc/{}/fd", self.pid());
        let Some(directory) = or_gone(File::open(path))? else {
            let directory = File::open("/proc/self/fd")?;
            return Ok(Some(ProcessLock {
                _directory: directory,
            }));
        };
        match directory.try_lock() {
            Ok(()) => Ok(Some(ProcessLock {
                _directory: directory,
            })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}
