//! Which objects of a patch are loaded in a process.

use engraft_patch::{Object, Patch};
use engraft_process::{BuildId, Modules, Process};

use crate::deadline::Deadline;
use crate::error::Error;

/// An object that is not loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Its file name when the patch was built.
    pub file_name: String,
    /// Its build-id in hexadecimal digits.
    pub build_id: String,
}

/// The objects of the patch that are not loaded.
pub(crate) fn waiting(process: &Process, patch: &Patch) -> Result<Vec<Waiting>, Error> {
    let modules = process.modules()?;
    let absent = patch
        .objects
        .iter()
        .filter(|object| !is_loaded(&modules, object));
    Ok(absent
        .map(|object| Waiting {
            file_name: object.file_name.clone(),
            build_id: object.build_id.to_string(),
        })
        .collect())
}

pub(crate) fn is_loaded(modules: &Modules, object: &Object) -> bool {
    let id = BuildId::new(object.build_id.as_bytes());
    modules.with_build_id(&id).next().is_some()
}

/// Finds the modules, and makes sure that no object is there in another build: a patch that silently waits
/// for a build that never comes is no success.
pub(crate) fn check_build_ids(
    process: &Process,
    patch: &Patch,
    deadline: &Deadline,
) -> Result<Modules, Error> {
    loop {
        let modules = process.modules()?;
        let error = patch
            .objects
            .iter()
            .filter(|object| !is_loaded(&modules, object))
            .find_map(|object| other_build(process, &modules, object));
        match error {
            None => return Ok(modules),
            // The process goes on while we look: a library that is just coming or going shows its name
            // before or after it can be read.
            Some((error, None)) => deadline.wait_briefly().map_err(|_| error)?,
            Some((error, Some(_))) => return Err(error),
        }
    }
}

/// A module with the name of an object and another build-id, which comes with the error.
pub(crate) fn other_build<'m>(
    process: &Process,
    modules: &'m Modules,
    object: &Object,
) -> Option<(Error, Option<&'m BuildId>)> {
    let module = modules.iter().find(|module| {
        let names = [module.path.as_deref(), Some(module.name.as_ref())];
        names.into_iter().flatten().any(|path| {
            path.file_name()
                .is_some_and(|name| name == object.file_name.as_str())
        })
    })?;
    let found = module.build_id.as_ref();
    let error = Error::WrongBuildId {
        pid: process.pid(),
        file_name: object.file_name.clone(),
        found: found.map_or("none".into(), ToString::to_string),
        expected: object.build_id.to_string(),
    };
    Some((error, found))
}
