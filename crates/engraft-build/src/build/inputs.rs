//! What a build begins with: the binaries and the patch's name.

use std::ffi::OsStr;
use std::path::PathBuf;

use crate::binary::{Binary, BinaryError};
use crate::request::{BuildError, BuildRequest};

pub(super) fn read_binaries(paths: &[PathBuf]) -> Result<Vec<Binary>, BuildError> {
    if paths.is_empty() {
        let what = "no binary is given".to_owned();
        return Err(BuildError::Request {
            what,
            hint: "name the program or library with --binary",
        });
    }
    let mut binaries: Vec<Binary> = Vec::new();
    for path in paths {
        let binary = Binary::read(path)?;
        if let Some(other) = binaries
            .iter()
            .find(|other| other.build_id == binary.build_id)
        {
            let (first, second) = (other.path.clone(), path.clone());
            let build_id = binary.build_id;
            return Err(BinaryError::Duplicate {
                first,
                second,
                build_id,
            }
            .into());
        }
        binaries.push(binary);
    }
    Ok(binaries)
}

/// The given name, or the fix's file name with what a name may not hold replaced.
pub(super) fn patch_name(request: &BuildRequest) -> Result<String, BuildError> {
    if request.command.is_empty() {
        return Err(no_command());
    }
    let stem = request
        .fix
        .file_stem()
        .map(OsStr::to_string_lossy)
        .unwrap_or_default();
    let allowed = |c: char| {
        if c.is_ascii_alphanumeric() || "._-".contains(c) {
            c
        } else {
            '-'
        }
    };
    let made = || {
        stem.chars()
            .map(allowed)
            .take(engraft_patch::check::MAXIMUM_NAME)
            .collect()
    };
    let name = request.name.clone().unwrap_or_else(made);
    if !engraft_patch::check::is_patch_name(&name) {
        let what = format!("{name:?} cannot be a patch's name");
        return Err(BuildError::Request {
            what,
            hint: "1 to 63 characters of [A-Za-z0-9._-]",
        });
    }
    Ok(name)
}

pub(super) fn no_command() -> BuildError {
    let what = "no build command is given".to_owned();
    BuildError::Request {
        what,
        hint: "put it after --, for example: -- make",
    }
}
