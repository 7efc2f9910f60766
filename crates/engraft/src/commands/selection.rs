//! Which processes are meant: found in /proc, and looked at without disturbing them.

use std::cell::OnceCell;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{fs, io};

use engraft_patch::Patch;
use engraft_process::{OpenError, Process, limits, open_ordinary};
use object::Object as _;
use object::read::ReadCache;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use crate::agent::running::RunningAgent;
use crate::agent::snapshot::PatchPhase;
use crate::commands::capabilities::may_trace_others;
use crate::commands::objects::is_loaded;
use crate::commands::status::status;
use crate::error::Error;
use crate::error::exit_code;

/// The processes that were found.
#[derive(Debug, Default)]
pub struct Selected {
    /// Those that are meant, by their numbers.
    pub processes: Vec<Process>,
    /// Those that could not be looked at, and might be meant.
    pub hidden: Vec<(i32, Error)>,
    /// Those that this user can never look at, although it may trace the processes of others: they have privileges
    /// that it has not, as the first process outside of a container.
    pub out_of_reach: Vec<i32>,
}

impl Selected {
    /// All processes that `is_meant` says yes to. One that ends meanwhile is not meant, nor are threads of
    /// the kernel, programs of another architecture, and we ourselves.
    fn find(is_meant: impl Fn(&Process) -> Result<bool, Error>) -> Result<Self, Error> {
        let may_trace = may_trace_others();
        let mut selected = Self::default();
        for pid in all_processes()? {
            let found = match Process::open(pid) {
                Ok(process) => {
                    process.limit_time(limits::LOOK_TIME);
                    is_meant(&process).map(|meant| meant.then_some(process))
                }
                Err(
                    error @ (OpenError::PermissionDenied { .. }
                    | OpenError::Starting { .. }
                    | OpenError::System { .. }),
                ) => Err(error.into()),
                Err(_) => Ok(None),
            };
            match found {
                Ok(process) => selected.processes.extend(process),
                Err(error) if error.exit_code() == exit_code::NO_SUCH_PROCESS => {}
                Err(Error::Open(OpenError::PermissionDenied { .. })) if may_trace => {
                    selected.out_of_reach.push(pid);
                }
                Err(error) => selected.hidden.push((pid, error)),
            }
        }
        Ok(selected)
    }

    /// Every process that has loaded an object of the patch, by build-id from its memory.
    pub fn with_object_of(patch: &Patch) -> Result<Self, Error> {
        Self::find(|process| {
            let modules = process.modules()?;
            let mut objects = patch.objects.iter();
            Ok(objects.any(|object| is_loaded(&modules, object)))
        })
    }

    /// Every process that runs the file.
    ///
    /// That is, by device and inode; or, for a file that was deleted or replaced after they had started, by
    /// its path; or, in another mount namespace, where neither says anything, by build-id.
    pub fn running(file: &Path) -> Result<Self, Error> {
        let file = Executable::new(file)?;
        Self::find(|process| file.is_run_by(process))
    }

    /// Every process that holds the patch, enabled or disabled.
    pub fn with_patch(name: &str) -> Result<Self, Error> {
        Self::find(|process| {
            Ok(status(process)?
                .patches
                .iter()
                .any(|patch| patch.name == name))
        })
    }

    /// Every process in which the patch is not disabled.
    pub fn with_enabled_patch(name: &str) -> Result<Self, Error> {
        Self::find(|process| {
            let patches = status(process)?.patches;
            let mut enabled = patches.iter().filter(|it| it.state != PatchPhase::Disabled);
            Ok(enabled.any(|patch| patch.name == name))
        })
    }

    /// Every process with a transition that is on, of this patch if one is named.
    pub fn in_transition(name: Option<&str>) -> Result<Self, Error> {
        let moving = |state| matches!(state, PatchPhase::Enabling | PatchPhase::Disabling);
        Self::find(|process| {
            let patches = status(process)?.patches;
            let mut patches = patches.iter().filter(|it| moving(it.state));
            Ok(patches.any(|patch| name.is_none_or(|name| patch.name == name)))
        })
    }

    /// Every process that has an agent.
    pub fn with_agent() -> Result<Self, Error> {
        Self::find(|process| match RunningAgent::find(process) {
            // Whoever wants something of it will say what is wrong.
            Err(Error::AgentVersion { .. }) => Ok(true),
            found => Ok(found?.is_some()),
        })
    }
}

fn all_processes() -> Result<Vec<i32>, Error> {
    let proc = Path::new("/proc");
    let failed = |source| Error::ReadFile {
        path: proc.into(),
        source,
    };
    let mut pids = Vec::new();
    for entry in fs::read_dir(proc).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let pid: Option<i32> = name.to_str().and_then(|name| name.parse().ok());
        pids.extend(pid.filter(|pid| u32::try_from(*pid) != Ok(std::process::id())));
    }
    pids.sort_unstable();
    Ok(pids)
}

/// A file that processes may run.
struct Executable {
    path: PathBuf,
    /// Device and inode; `None` if there is no such file (any more).
    identity: Option<((u32, u32), u64)>,
    namespace: Option<PathBuf>,
    build_id: OnceCell<Option<Vec<u8>>>,
}

impl Executable {
    fn new(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::ReadFile {
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

    fn is_run_by(&self, process: &Process) -> Result<bool, Error> {
        let pid = process.pid();
        let link = PathBuf::from(format!("/proc/{pid}/exe"));
        let failed = |source: std::io::Error| match process.is_alive() {
            true => Error::ReadFile {
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
                let modules = process.modules()?;
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

/// Device and inode of a file. The server of a network file system is not asked, which may be the process itself.
fn identity(path: &Path) -> io::Result<((u32, u32), u64)> {
    let facts = statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::INO)?;
    Ok(((facts.stx_dev_major, facts.stx_dev_minor), facts.stx_ino))
}

/// The path that a file would have if it were there, as the kernel names it.
fn without_links(path: PathBuf) -> PathBuf {
    let parent = path
        .parent()
        .and_then(|parent| fs::canonicalize(parent).ok());
    match (parent, path.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => path,
    }
}

/// What identifies it; `None` if it cannot be seen.
fn mount_namespace(pid: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/mnt")).ok()
}
