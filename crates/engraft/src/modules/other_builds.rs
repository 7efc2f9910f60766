//! Modules that are other builds of an object: the patch does not fit them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use engraft_process::foreign::escape_name;
use engraft_process::{Module, ModuleKind, Modules, Process};
use serde::Serialize;

/// A module that has the name of an object, but another build-id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OtherBuild {
    /// The path of its file, or the loader's name of it.
    pub path: String,
    /// Its build-id in hexadecimal digits; `None` if it has none.
    pub build_id: Option<String>,
}

/// The modules that are other builds of the object with this file name and build-id.
pub(crate) fn other_builds(
    process: &Process,
    modules: &Modules,
    file_name: &str,
    build_id: &str,
) -> Vec<OtherBuild> {
    let others = modules.iter().filter_map(|module| {
        let found = module.build_id.as_ref().map(ToString::to_string);
        let is_other = found.as_deref() != Some(build_id);
        (is_other && is_build_of(process, module, file_name)).then(|| OtherBuild {
            path: path(module),
            build_id: found,
        })
    });
    others.collect()
}

/// The path of the module's file; the loader's name of it if the kernel knows no path.
fn path(module: &Module) -> String {
    let path = module.path.as_deref().map(Path::as_os_str);
    let path = path.unwrap_or(&module.name);
    escape_name(path)
}

/// Whether a module is a build of the file with this name. It is if its own file has the name, or
/// if the name is the library's soname, with or without a longer version (`libz.so.1` is the
/// soname, `libz.so.1.3.1` the file).
fn is_build_of(process: &Process, module: &Module, file_name: &str) -> bool {
    let names = [module.path.as_deref(), Some(module.name.as_ref())];
    let mut names = names.into_iter().flatten().filter_map(Path::file_name);
    if names.any(|name| without_mark(name.as_bytes()) == file_name.as_bytes()) {
        return true;
    }
    if module.kind != ModuleKind::Library {
        return false;
    }
    let needed = module.shared_name(process.memory());
    let needed = needed.as_deref().map(OsStr::as_bytes).unwrap_or_default();
    let version = file_name.as_bytes().strip_prefix(needed);
    let is_version = |rest: &[u8]| rest.is_empty() || rest.starts_with(b".");
    !needed.is_empty() && version.is_some_and(is_version)
}

/// The name of a file without the mark that the kernel appends when the file was deleted or
/// replaced.
fn without_mark(name: &[u8]) -> &[u8] {
    name.strip_suffix(b" (deleted)").unwrap_or(name)
}
