//! The modules of a running process, read at a moment at which no library comes or goes.
//!
//! The loader's lists, the memory map and the modules' notes are read one after the other. A
//! library that comes or goes meanwhile is seen half: listed and not mapped, or with the build-id
//! of the library that takes its place.

use engraft_process::{MemoryError, ModuleError, Modules, Process};

use crate::backoff::Backoff;
use crate::error::Error;

/// How often the modules are read, at least, however little time there is.
const FEWEST_READS: usize = 5;

/// How often the modules are read, at most, for a stable moment if nothing is found. The agent
/// makes sure again.
const MOST_READS: usize = 100;

/// The modules of a process, and the problems that `find` finds among them. Problems are reported
/// only if two reads agree on them, each made while no library came or went.
///
/// # Errors
/// [`Error::LoaderBusy`] if no two such reads agree until the deadline.
pub(crate) fn confirmed<T: PartialEq>(
    process: &Process,
    backoff: &Backoff,
    find: impl Fn(&Modules) -> Vec<T>,
) -> Result<(Modules, Vec<T>), Error> {
    let mut last = None;
    let mut reads = 0;
    loop {
        reads += 1;
        if let Some((modules, is_stable)) = read(process)? {
            let found = find(&modules);
            // `find` may have read the memory of a library that has come to the same place since.
            let is_stable = is_stable && (found.is_empty() || modules.are_current(process));
            let is_confirmed = match found.is_empty() {
                true => is_stable || reads >= MOST_READS,
                false => is_stable && last.as_ref() == Some(&found),
            };
            if is_confirmed {
                return Ok((modules, found));
            }
            if is_stable {
                last = Some(found);
            }
        }
        let waited = backoff.wait_briefly();
        if reads >= FEWEST_READS {
            let pid = process.pid();
            waited.map_err(|timeout| Error::LoaderBusy { pid, timeout })?;
        }
    }
}

/// The modules at a stable moment; at the last of many reads if there is none. For a caller that
/// treats each module by itself.
pub(crate) fn modules(process: &Process) -> Result<Modules, Error> {
    let mut last = None;
    for _ in 0..MOST_READS {
        match read(process)? {
            Some((modules, true)) => return Ok(modules),
            Some((modules, false)) => last = Some(modules),
            None => {}
        }
    }
    last.map_or_else(|| Ok(process.modules()?), Ok)
}

/// The modules, and whether no library came or went during the read. `None` if a library that was
/// being read has gone.
fn read(process: &Process) -> Result<Option<(Modules, bool)>, Error> {
    match process.modules() {
        Ok(modules) => {
            let is_stable = modules.are_current(process);
            Ok(Some((modules, is_stable)))
        }
        Err(ModuleError::Memory(MemoryError::Unmapped { .. })) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
