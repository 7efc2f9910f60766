//! What is loaded in a process that runs on meanwhile, with certainty.
//!
//! The loader's lists, the memory map and the modules' notes are read one after the other. A library that comes or goes
//! in between is seen half: listed and not mapped, or with the build-id of the one that takes its place.

use engraft_process::{MemoryError, ModuleError, Modules, Process};

use crate::backoff::Backoff;
use crate::error::Error;

/// How often a process is looked at however little time there is.
const FEWEST_LOOKS: usize = 5;

/// How often it is looked at, at most, for a moment without a library coming or going, if nothing objectionable is
/// seen. The agent makes sure once more.
const MOST_CALM_LOOKS: usize = 100;

/// What `ask` finds objectionable among the modules of a process: nothing, or what two looks have found around which
/// no library came or went.
///
/// # Errors
/// [`Error::LoaderBusy`] if there were no two such looks until the deadline.
pub(crate) fn certain<T: PartialEq>(
    process: &Process,
    backoff: &Backoff,
    ask: impl Fn(&Modules) -> Vec<T>,
) -> Result<(Modules, Vec<T>), Error> {
    let mut believed = None;
    let mut looks = 0;
    loop {
        looks += 1;
        if let Some((modules, is_stable)) = look(process)? {
            let found = ask(&modules);
            // What was asked may have been read of a library that has come to the same place since.
            let is_stable = is_stable && (found.is_empty() || modules.are_current(process));
            let is_calm = is_stable || looks >= MOST_CALM_LOOKS;
            let is_certain = match found.is_empty() {
                true => is_calm,
                false => is_stable && believed.as_ref() == Some(&found),
            };
            if is_certain {
                return Ok((modules, found));
            }
            if is_stable {
                believed = Some(found);
            }
        }
        let waited = backoff.wait_briefly();
        if looks >= FEWEST_LOOKS {
            let pid = process.pid();
            waited.map_err(|timeout| Error::LoaderBusy { pid, timeout })?;
        }
    }
}

/// The modules at a moment without a library coming or going, or if there is none, at the last look; for questions
/// that are asked of each module by itself.
pub(crate) fn modules(process: &Process) -> Result<Modules, Error> {
    let mut last = None;
    for _ in 0..MOST_CALM_LOOKS {
        match look(process)? {
            Some((modules, true)) => return Ok(modules),
            Some((modules, false)) => last = Some(modules),
            None => {}
        }
    }
    last.map_or_else(|| Ok(process.modules()?), Ok)
}

/// The modules, and whether nothing came or went around the look. `None` if a library went in the middle of it.
fn look(process: &Process) -> Result<Option<(Modules, bool)>, Error> {
    match process.modules() {
        Ok(modules) => {
            let is_stable = modules.are_current(process);
            Ok(Some((modules, is_stable)))
        }
        Err(ModuleError::Memory(MemoryError::Unmapped { .. })) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
