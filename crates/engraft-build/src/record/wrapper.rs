//! The executable in place of a compiler: writes down what it was asked to do, and becomes the real
//! compiler.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{SystemTime, UNIX_EPOCH};

use super::inputs::sources;
use super::recorder::{RECORDS, SOURCE, WRAPPERS};
use super::response_files;
use super::start::StoredRecord;
use super::work_directory::guard_main;

/// Variables that change what a compiler makes of a command line.
const ENVIRONMENT: [&str; 11] = [
    "PATH",
    "HOME",
    "TMPDIR",
    "CPATH",
    "C_INCLUDE_PATH",
    "CPLUS_INCLUDE_PATH",
    "COMPILER_PATH",
    "GCC_EXEC_PREFIX",
    "SOURCE_DATE_EPOCH",
    "LANG",
    "LC_ALL",
];

/// To be called first thing in `main` of the executable that [`crate::BuildRequest::wrapper`]
/// names.
///
/// Returns `None` unless the process was started as a compiler by a recorded build. Otherwise it
/// becomes the real compiler and returns only if that fails.
pub fn wrapper_main() -> Option<ExitCode> {
    if let Some(code) = guard_main() {
        return Some(code);
    }
    let records = PathBuf::from(std::env::var_os(RECORDS)?);
    let links = PathBuf::from(std::env::var_os(WRAPPERS)?);
    let mut arguments = std::env::args_os();
    let called = PathBuf::from(arguments.next()?);
    let name = called
        .file_name()
        .filter(|name| links.join(name).is_symlink())?;
    let error = become_compiler(name, &links, &records, arguments.collect());
    let _ = writeln!(
        io::stderr(),
        "engraft: recording {}: {error}",
        name.display()
    );
    Some(ExitCode::from(127))
}

/// Records, then executes; returns only what went wrong.
fn become_compiler(
    name: &OsStr,
    links: &Path,
    records: &Path,
    arguments: Vec<OsString>,
) -> io::Error {
    let path = match path_without(links) {
        Ok(path) => path,
        Err(error) => return error,
    };
    let Some(compiler) = look_up(name, &path) else {
        return io::Error::new(io::ErrorKind::NotFound, "there is no such compiler in PATH");
    };
    let directory = match std::env::current_dir() {
        Ok(directory) => directory,
        Err(error) => return error,
    };
    if std::env::var_os(SOURCE).is_some_and(|source| directory.starts_with(source)) {
        return io::Error::other(format!(
            "the build went into the original tree ({}), whose paths it must have been configured \
             with; let the build command configure the tree it is started in",
            directory.display()
        ));
    }
    if let Err(error) = write_record(&compiler, &arguments, &directory, &path, records) {
        return error;
    }
    // Without our links, so that a compiler cache or driver that looks its compiler up finds a real
    // one.
    Command::new(&compiler)
        .arg0(name)
        .args(arguments)
        .env("PATH", path)
        .exec()
}

fn write_record(
    compiler: &Path,
    arguments: &[OsString],
    directory: &Path,
    path: &OsStr,
    records: &Path,
) -> io::Result<()> {
    let mut environment: Vec<_> = ENVIRONMENT
        .iter()
        .filter_map(|name| Some((name.as_bytes().to_vec(), std::env::var_os(name)?.into_vec())))
        .collect();
    environment.push((b"PATH".to_vec(), path.as_bytes().to_vec()));
    // One file for each, complete before it gets its name: compiles run side by side.
    let mut file = tempfile::Builder::new()
        .prefix("compile-")
        .tempfile_in(records)?;
    let arguments = response_files::expand(arguments);
    let kept = keep_sources(&arguments, directory, file.path());
    let stored = StoredRecord {
        compiler: compiler.as_os_str().as_bytes().to_vec(),
        arguments: arguments.into_iter().map(OsString::into_vec).collect(),
        directory: directory.as_os_str().as_bytes().to_vec(),
        environment,
        kept,
        time: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos(),
    };
    serde_json::to_writer(&mut file, &stored)?;
    let (_, unfinished) = file.keep()?;
    std::fs::rename(&unfinished, unfinished.with_extension("json"))
}

/// Hard links to the source files, beside the record. None where a link cannot be made: on another
/// file system, or of what is no file.
fn keep_sources(arguments: &[OsString], directory: &Path, record: &Path) -> Vec<Vec<u8>> {
    let keep = |(index, source): (usize, PathBuf)| {
        let mut kept = record.to_owned().into_os_string();
        kept.push(format!(".source-{index}"));
        let linked = std::fs::hard_link(directory.join(source), &kept).is_ok();
        if linked { kept.into_vec() } else { Vec::new() }
    };
    let sources = sources(arguments);
    sources.into_iter().enumerate().map(keep).collect()
}

fn path_without(links: &Path) -> io::Result<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let others = std::env::split_paths(&path).filter(|directory| directory != links);
    std::env::join_paths(others).map_err(io::Error::other)
}

fn look_up(name: &OsStr, path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(path)
        .map(|directory| directory.join(name))
        .find(|candidate| {
            std::fs::metadata(candidate)
                .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
        })
}
