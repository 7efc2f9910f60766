//! Which processes run a file.

use std::cell::OnceCell;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{fs, io};

use object::Object as _;
use object::read::ReadCache;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use crate::elf::modules::{ModuleError, Modules};
use crate::process::foreign_file::open_ordinary;
use crate::process::handle::Process;
use crate::process::open_error::OpenError;

/// Why it cannot be told whether a process runs a file.
#[derive(Debug, thiserror::Error)]
pub enum ExecutableError {
    /// The file, or the link in `/proc` to the program of a process, cannot be read.
    #[error("failed to read {}: {source}", path.display())]
    Read {
        /// The file or the link.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The process has ended.
    #[error(transparent)]
    Ended(#[from] OpenError),
    /// The modules of the process cannot be read.
    #[error(transparent)]
    Modules(#[from] ModuleError),
}

/// A file that processes may run, or have run before it was deleted or replaced.
pub struct Executable {
    path: PathBuf,
    /// Device and inode; `None` if there is no such file (any more).
    identity: Option<((u32, u32), u64)>,
    namespace: Option<PathBuf>,
    build_id: OnceCell<Option<Vec<u8>>>,
}

impl Executable {
    /// The file at this path, which need not exist any more.
    ///
    /// # Errors
    /// If the path cannot be resolved.
    pub fn new(path: &Path) -> Result<Self, ExecutableError> {
        let failed = |source| ExecutableError::Read {
            path: path.into(),
            source,
        };
        let absolute = std::path::absolute(path).map_err(failed)?;
        let (path, identity) = match identity(&absolute) {
            Ok(identity) => {
                let path = fs::canonicalize(&absolute).map_err(failed)?;
                (path, Some(identity))
            }
            Err(_) => (without_links(absolute), None),
        };
        Ok(Self {
            path,
            identity,
            namespace: mount_namespace("self"),
            build_id: OnceCell::new(),
        })
    }

    /// Whether the process runs the file: by device and inode; or, for a file that was deleted or
    /// replaced after the process had started, by its path; or, in another mount namespace, where
    /// neither tells anything, by build-id.
    ///
    /// # Errors
    /// If the process has ended, or cannot be read.
    pub fn is_run_by(&self, process: &Process) -> Result<bool, ExecutableError> {
        let pid = process.pid();
        let link = PathBuf::from(format!("/proc/{pid}/exe"));
        let failed = |source: io::Error| match process.is_alive() {
            true => ExecutableError::Read {
                path: link.clone(),
                source,
            },
            false => OpenError::NoSuchProcess { pid }.into(),
        };
        if self.identity.is_some() && self.identity == Some(identity(&link).map_err(failed)?) {
            return Ok(true);
        }
        let name = fs::read_link(&link).map_err(failed)?;
        let mut deleted = OsString::from(&self.path);
        deleted.push(" (deleted)");
        if mount_namespace(&pid.to_string()) == self.namespace {
            return Ok(name == deleted);
        }
        match (self.identity, self.build_id()) {
            (Some(_), Some(wanted)) => {
                let modules = Modules::discover(process)?;
                let found = modules.program().and_then(|it| it.build_id.as_ref());
                Ok(found.is_some_and(|found| found.as_bytes() == wanted))
            }
            (Some(_), None) => Ok(false),
            (None, _) => Ok(name == deleted || name == self.path),
        }
    }

    fn build_id(&self) -> Option<&[u8]> {
        let read = || {
            let cache = ReadCache::new(open_ordinary(&self.path).ok()?);
            let file = object::File::parse(&cache).ok()?;
            Some(file.build_id().ok()??.to_vec())
        };
        self.build_id.get_or_init(read).as_deref()
    }
}

/// Device and inode of a file. The server of a network file system is not asked: the process itself
/// may be the server.
fn identity(path: &Path) -> io::Result<((u32, u32), u64)> {
    let facts = statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::INO)?;
    Ok(((facts.stx_dev_major, facts.stx_dev_minor), facts.stx_ino))
}

/// The path that a file that does not exist would have, as the kernel names it.
fn without_links(path: PathBuf) -> PathBuf {
    let parent = path
        .parent()
        .and_then(|parent| fs::canonicalize(parent).ok());
    match (parent, path.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => path,
    }
}

/// The identity of a process's mount namespace; `None` if it cannot be read.
fn mount_namespace(pid: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/mnt")).ok()
}
