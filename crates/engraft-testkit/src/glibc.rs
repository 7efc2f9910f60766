//! The glibc of another Debian release, beside the machine's own.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::apt::Apt;
use crate::{TIME_LIMIT, exit, run};

/// Where Debian has libraries.
const LIBRARIES: &str = "lib/x86_64-linux-gnu";
const FOR_LINKING: &str = "usr/lib/x86_64-linux-gnu";

/// Its library, its headers, and the kernel's, which they need.
const PACKAGES: [&str; 3] = ["libc6", "libc6-dev", "linux-libc-dev"];

/// Unpacked packages: programs can be built for them, and run with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glibc {
    /// The package's version.
    pub version: String,
    root: PathBuf,
}

impl Glibc {
    /// Takes the glibc of a release (`bullseye`) from `cache`, or fetches it into there.
    pub fn fetch(release: &str, cache: &Path) -> Result<Self> {
        fs::create_dir_all(cache)?;
        // Tests that need the same glibc may start at the same time. One of them downloads it.
        let lock = File::create(cache.join(format!("glibc-{release}.lock")))?;
        lock.lock()?;
        let root = cache.join(format!("glibc-{release}"));
        if !root.exists() {
            let work = tempfile::tempdir_in(cache)?;
            let unpacked = work.path().join("unpacked");
            fs::create_dir(&unpacked)?;
            fetch(release, work.path(), &unpacked)?;
            make_movable(&unpacked)?;
            // Renamed when complete, so that an interrupted run leaves no incomplete copy.
            fs::rename(&unpacked, &root)?;
        }
        let version = fs::read_to_string(root.join("version"))?;
        Ok(Self { version, root })
    }

    /// Arguments for make with which it builds programs and libraries that run with this glibc.
    pub fn make_arguments(&self) -> [String; 1] {
        let root = self.root.display();
        let libraries = self.root.join(LIBRARIES);
        let libraries = libraries.display();
        // For a cross compiler --sysroot would do. A native gcc searches the machine's own
        // directories before the sysroot, and those of -B before both.
        [format!(
            "CC=cc --sysroot={root} -B{root}/{FOR_LINKING} \
            -Wl,--dynamic-linker={libraries}/ld-linux-x86-64.so.2 -Wl,-rpath,{libraries}"
        )]
    }
}

/// Fetches the packages and unpacks them.
fn fetch(release: &str, work: &Path, unpacked: &Path) -> Result<()> {
    let apt = Apt::for_release(work, release)?;
    apt.run(&["update"], work)?;
    let downloads = work.join("downloads");
    fs::create_dir(&downloads)?;
    for package in PACKAGES {
        apt.run(&["download", &format!("{package}/{release}")], &downloads)?;
    }
    for file in fs::read_dir(&downloads)? {
        let file = file?.path();
        dpkg_deb(&["--extract".as_ref(), file.as_ref(), unpacked.as_ref()])?;
        let [package, version] = ["Package", "Version"]
            .map(|field| dpkg_deb(&["--field".as_ref(), file.as_ref(), field.as_ref()]));
        if package?.trim() == "libc6" {
            fs::write(unpacked.join("version"), version?.trim())?;
        }
    }
    Ok(())
}

/// What it prints.
fn dpkg_deb(arguments: &[&OsStr]) -> Result<String> {
    let mut command = Command::new("dpkg-deb");
    let outcome = run(command.args(arguments), TIME_LIMIT)?;
    Ok(outcome.exits(exit::OK)?.stdout)
}

/// Corrects absolute links and paths, which were made for `/`.
fn make_movable(root: &Path) -> Result<()> {
    // Links that base-files has since Debian 12.
    for directory in ["lib", "lib64"] {
        if !root.join(directory).exists() {
            symlink(Path::new("usr").join(directory), root.join(directory))?;
        }
    }
    for directory in [FOR_LINKING, "lib64"] {
        let up: PathBuf = Path::new(directory).iter().map(|_| "..").collect();
        for entry in fs::read_dir(root.join(directory))? {
            let path = entry?.path();
            let target = fs::read_link(&path).ok();
            if let Some(Ok(target)) = target.as_ref().map(|target| target.strip_prefix("/")) {
                fs::remove_file(&path)?;
                symlink(up.join(target), &path)?;
            }
        }
    }
    Ok(())
}
