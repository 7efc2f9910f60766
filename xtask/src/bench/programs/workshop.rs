//! Sources of Debian packages, built once and kept, and patches made from them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use engraft_testkit::debian::SourcePackage;
use engraft_testkit::{Engraft, exit, run};

use crate::cargo;
use crate::tools;

/// Far more than any build takes.
const LIMIT: Duration = Duration::from_secs(2 * 60 * 60);

/// Is there when everything has been built.
const FILLED: &str = "complete";

/// The directory in which everything is kept, and the command.
pub(super) struct Workshop<'a> {
    pub(super) engraft: &'a Engraft,
    home: PathBuf,
}

/// A source tree in which a build has taken place.
pub(super) struct Built {
    /// The source package's version.
    pub(super) version: String,
    pub(super) tree: PathBuf,
}

/// A patch to be made.
pub(super) struct Fix<'a> {
    /// The source fix, a file of `bench/programs` without its ending; the patch's name, too.
    pub(super) name: &'static str,
    /// The function that it changes.
    pub(super) function: &'static str,
    /// What it is a fix for.
    pub(super) tree: &'a Path,
    pub(super) binary: &'a Path,
    /// What builds it, for a shell in the tree.
    pub(super) build: &'static str,
}

/// A patch file.
#[derive(Debug, Clone)]
pub(super) struct Patch {
    pub(super) name: &'static str,
    /// What it replaces.
    pub(super) function: &'static str,
    pub(super) file: PathBuf,
}

impl<'a> Workshop<'a> {
    pub(super) fn new(engraft: &'a Engraft) -> Result<Self> {
        let home = home();
        fs::create_dir_all(&home)
            .with_context(|| format!("failed to create {}", home.display()))?;
        Ok(Self { engraft, home })
    }

    /// Has later runs without `--only` measure the programs, too.
    pub(super) fn mark_filled(&self) -> Result<()> {
        self.keep(FILLED, "")
    }

    /// A file or directory of what is kept.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    /// The source of a package, after `build` has run there in a shell, once.
    pub(super) fn built(&self, package: &str, version: &str, build: &str) -> Result<Built> {
        let source = SourcePackage::fetch(package, version, &self.home)
            .with_context(|| format!("failed to fetch the source of {package}"))?;
        let done = format!("{package}.built");
        if !self.has_kept(&done, build) {
            println!("Building {package} {} ...", source.version);
            let mut shell = Command::new("sh");
            shell.args(["-e", "-c", build]).current_dir(&source.tree);
            // A jobserver of an outer make is not ours.
            shell.env_remove("MAKEFLAGS").env_remove("MFLAGS");
            run(&mut shell, LIMIT)?.exits(exit::OK)?;
            self.keep(&done, build)?;
        }
        Ok(Built {
            version: source.version,
            tree: source.tree,
        })
    }

    /// The patch file, which is kept until the fix or the command that makes it is another.
    pub(super) fn patch(&self, fix: &Fix<'_>) -> Result<Patch> {
        let name = fix.name;
        let source_fix = programs().join(format!("{name}.patch"));
        let text = fs::read_to_string(&source_fix)
            .with_context(|| format!("failed to read {}", source_fix.display()))?;
        let engraft = fs::metadata(self.engraft.program())?.modified()?;
        let made_from = format!("{engraft:?} {} {}\n{text}", fix.binary.display(), fix.build);
        let (output, done) = (
            self.path(name).with_extension("engraft"),
            format!("{name}.made"),
        );
        if !self.has_kept(&done, &made_from) {
            println!("Making the patch {name} ...");
            let mut build = self.engraft.command(["build", "--name", name]);
            build.arg("--source").arg(fix.tree);
            build.arg("--patch").arg(&source_fix);
            build.arg("--binary").arg(fix.binary);
            build.arg("--output").arg(&output);
            build.args(["--", "sh", "-c", fix.build]);
            build.env_remove("MAKEFLAGS").env_remove("MFLAGS");
            run(&mut build, LIMIT)?.exits(exit::OK)?;
            self.keep(&done, &made_from)?;
        }
        Ok(Patch {
            name,
            function: fix.function,
            file: output,
        })
    }

    fn has_kept(&self, name: &str, text: &str) -> bool {
        fs::read_to_string(self.path(name)).is_ok_and(|kept| kept == text)
    }

    fn keep(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path(name);
        fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))
    }
}

/// Where everything is kept.
fn home() -> PathBuf {
    cargo::workspace().join("target/programs")
}

/// True if an earlier run has built all that is measured.
pub(in super::super) fn is_filled() -> bool {
    home().join(FILLED).exists()
}

/// Where the source fixes and our own programs are.
pub(super) fn programs() -> PathBuf {
    cargo::workspace().join("bench/programs")
}

/// Makes sure that packages are installed; as root, installs those that are missing.
pub(super) fn require(packages: &[&'static str]) -> Result<()> {
    let mut missing = packages.to_vec();
    missing.retain(|package| installed_version(package).is_err());
    if missing.is_empty() {
        return Ok(());
    }
    tools::install(&missing)
}

/// The version of an installed package.
pub(super) fn installed_version(package: &str) -> Result<String> {
    let mut query = Command::new("dpkg-query");
    query.args([
        "--show",
        "--showformat",
        "${db:Status-Status} ${Version}",
        package,
    ]);
    let outcome = run(&mut query, LIMIT)?;
    let version = outcome.stdout.strip_prefix("installed ");
    Ok(version
        .with_context(|| format!("{package} is not installed"))?
        .to_owned())
}
