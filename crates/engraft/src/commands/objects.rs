//! Whether the objects of a patch are loaded in a process, and in the right build.

use engraft_patch::{Object, Patch};
use engraft_process::{Modules, Process};

use crate::agent::snapshot::{PatchPhase, Snapshot};
use crate::backoff::Backoff;
use crate::error::Error;
use crate::modules::other_builds::{OtherBuild, other_builds};
use crate::modules::stable::confirmed;
use crate::session::Session;

/// An object that is not loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AbsentObject {
    /// Its file name when the patch was built.
    pub file_name: String,
    /// Its build-id in hexadecimal digits.
    pub build_id: String,
}

/// Which objects of a patch are loaded in a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectPresence {
    /// The objects that are not loaded.
    pub absent: Vec<AbsentObject>,
    /// Whether an object is loaded.
    pub any_loaded: bool,
}

impl ObjectPresence {
    /// For an enabled patch, as the agent knows it, which follows each load.
    pub(crate) fn of_enabled(session: &Session<'_>, name: &str) -> Result<Self, Error> {
        let patches = Snapshot::read(&session.agent)?.patches.into_iter();
        let mut enabled = patches.filter(|it| it.state != PatchPhase::Disabled);
        let patch = enabled.find(|patch| patch.name == name);
        let objects = patch.map(|patch| patch.objects).unwrap_or_default();
        let any_loaded = objects.iter().any(|object| !object.modules.is_empty());
        let absent = objects.into_iter().filter(|it| it.modules.is_empty());
        let absent = absent.map(|object| AbsentObject {
            file_name: object.file_name,
            build_id: object.build_id,
        });
        Ok(Self {
            absent: absent.collect(),
            any_loaded,
        })
    }

    /// For a patch that is to be applied to a process with these modules.
    pub(crate) fn of_patch(patch: &Patch, modules: &Modules) -> Self {
        let (loaded, absent): (Vec<_>, Vec<_>) = patch
            .objects
            .iter()
            .partition(|object| is_loaded(modules, object));
        Self {
            absent: absent.into_iter().map(AbsentObject::from).collect(),
            any_loaded: !loaded.is_empty(),
        }
    }
}

impl From<&Object> for AbsentObject {
    fn from(object: &Object) -> Self {
        Self {
            file_name: object.file_name.clone(),
            build_id: object.build_id.to_string(),
        }
    }
}

impl std::fmt::Display for AbsentObject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (build-id {})", self.file_name, self.build_id)
    }
}

/// Whether one of the modules is the object.
pub(crate) fn is_loaded(modules: &Modules, object: &Object) -> bool {
    modules.with_build_id(&object.build_id).next().is_some()
}

/// Finds the modules, and makes sure that no object is there only in another build. (A patch that
/// waits for a build that never comes is no success.)
///
/// # Errors
/// [`Error::WrongBuildId`] if an object is there only in another build.
pub(crate) fn check_build_ids(
    process: &Process,
    patch: &Patch,
    backoff: &Backoff,
) -> Result<Modules, Error> {
    let (modules, others) = find_objects(process, patch, backoff)?;
    match others.into_iter().next() {
        None => Ok(modules),
        Some((object, found)) => Err(wrong_build_id(process, object, found)),
    }
}

/// An object, and the other build of it that is loaded instead.
pub(crate) type WrongBuild<'p> = (&'p Object, OtherBuild);

/// The modules, and the objects of the patch that are there only in another build.
pub(crate) fn find_objects<'p>(
    process: &Process,
    patch: &'p Patch,
    backoff: &Backoff,
) -> Result<(Modules, Vec<WrongBuild<'p>>), Error> {
    confirmed(process, backoff, |modules| {
        let absent = patch.objects.iter().filter(|it| !is_loaded(modules, it));
        let others = absent.filter_map(|object| {
            let build_id = object.build_id.to_string();
            let found = other_builds(process, modules, &object.file_name, &build_id);
            Some((object, found.into_iter().next()?))
        });
        others.collect()
    })
}

/// The error that a module is another build of the object.
pub(crate) fn wrong_build_id(process: &Process, object: &Object, found: OtherBuild) -> Error {
    Error::WrongBuildId {
        pid: process.pid(),
        file_name: object.file_name.clone(),
        path: found.path,
        found: found.build_id.unwrap_or_else(|| "none".into()),
        expected: object.build_id.to_string(),
    }
}

/// Makes sure that the patch can come into effect.
///
/// # Errors
/// [`Error::NothingToPatch`] if the process has loaded no object of the patch, and cannot load one
/// that the agent would notice.
pub(crate) fn check_presence(
    process: &Process,
    patch: &Patch,
    modules: &Modules,
) -> Result<(), Error> {
    let presence = ObjectPresence::of_patch(patch, modules);
    match presence.any_loaded || modules.can_grow() {
        true => Ok(()),
        false => Err(Error::NothingToPatch {
            pid: process.pid(),
            objects: presence.absent.iter().map(ToString::to_string).collect(),
        }),
    }
}
