//! Real input: expat 2.5.0 as Debian 12 has it, and Debian's own fix for CVE-2024-50602.
//!
//! XML_StopParser on a parser that has not begun says that it is well; a program may then crash on
//! its next step. The fix makes it fail with error 44, "parser not started".

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use engraft_testkit::debian::SourcePackage;
use engraft_testkit::{Snapshot, TIME_LIMIT, Victim, exit, has_tool, run, skip};

use crate::{engraft, victims};

const VERSION: &str = "2.5.0-1+deb12u2";
const FIX: &str = "debian/patches/expat-2.5.0-CVE-2024-50602.patch";
const BUG: &str = "status=1 error=0 none";
const FIXED: &str = "status=0 error=44 parser not started";

/// With the flags that Debian builds packages with.
const CONFIGURE: &str = "cd expat && ./buildconf.sh && ./configure --without-docbook \
    CFLAGS='-g -O2 -fstack-protector-strong -Wformat -Werror=format-security' \
    CPPFLAGS='-Wdate-time -D_FORTIFY_SOURCE=2' LDFLAGS='-Wl,-z,relro'";
const MAKE: [&str; 4] = ["make", "-C", "expat/lib", "-j2"];

#[test]
fn a_debian_fix_reaches_a_running_program() -> Result<()> {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("debian");
    let package = match SourcePackage::fetch("expat", VERSION, &cache) {
        Ok(package) => package,
        Err(error) => {
            skip(
                "expat",
                &format!("failed to fetch the source of expat: {error:#}"),
            );
            return Ok(());
        }
    };
    for tool in ["autoreconf", "automake", "libtoolize", "patch"] {
        if !has_tool("expat", tool)? {
            return Ok(());
        }
    }
    println!("expat {}", package.version);
    let place = Place::prepare(&package)?;
    let expat = format!("EXPAT={}", place.built.join("expat").display());
    let victim = Victim::build_with(&victims().join("expat"), &[&expat])?;
    let mut program = victim.start("stop", &[])?;
    let pid = program.pid();
    program.expect("stop", BUG)?;
    program.expect("parse <a><b/><c/></a>", "elements=3")?;
    let before = Snapshot::take(pid)?;

    let engraft = engraft();
    let library = place.built.join("expat/lib/.libs/libexpat.so.1");
    let patch = place.directory.path().join("fix.engraft");
    engraft
        .build(
            &place.original,
            &place.fix,
            &[library],
            "CVE-2024-50602",
            &patch,
            &MAKE,
        )?
        .exits(exit::OK)?
        .says(&["XML_StopParser", "XML_ErrorString"])?;
    engraft.apply(&patch, pid)?.exits(exit::OK)?;
    program.expect("stop", FIXED)?;
    program.expect("parse <a><b/><c/></a>", "elements=3")?;
    program.expect("parse <a><b/></c></a>", "error=7")?;

    engraft.disable("CVE-2024-50602", pid)?.exits(exit::OK)?;
    program.expect("stop", BUG)?;
    before.expect_same_text()?;
    program.finish()
}

/// The version without the fix, twice, and the fix.
struct Place {
    directory: tempfile::TempDir,
    /// Debian's fix without its changes to expat's tests: a later fix has moved these, so they
    /// cannot be taken back alone.
    fix: PathBuf,
    /// Configured, not built: what the patch is made from.
    original: PathBuf,
    /// The same, built: what runs.
    built: PathBuf,
}

impl Place {
    fn prepare(package: &SourcePackage) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let [fix, original, built] =
            ["library.patch", "original", "built"].map(|name| directory.path().join(name));
        let version = &package.version;
        let whole = fs::read_to_string(package.tree.join(FIX))
            .with_context(|| format!("failed to read {FIX} of expat {version}"))?;
        fs::write(&fix, only_library(&whole))?;
        copy_tree(&package.tree, &original)?;
        shell(
            &original,
            &format!("patch --reverse -p1 < {}", fix.display()),
        )?;
        shell(&original, CONFIGURE)?;
        copy_tree(&original, &built)?;
        shell(&built, &MAKE.join(" "))?;
        Ok(Self {
            directory,
            fix,
            original,
            built,
        })
    }
}

/// The parts of a patch in git's form that change files of the library.
fn only_library(patch: &str) -> String {
    let start = "\ndiff --git ";
    let files = patch
        .split(start)
        .skip(1)
        .filter(|file| file.starts_with("a/expat/lib/"));
    files.map(|file| format!("{start}{file}\n")).collect()
}

/// Keeps the times of the files, which tell make what is to be done.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let mut copy = Command::new("cp");
    run(copy.arg("--archive").arg(from).arg(to), TIME_LIMIT)?.exits(exit::OK)?;
    Ok(())
}

fn shell(directory: &Path, script: &str) -> Result<()> {
    let mut shell = Command::new("sh");
    shell.args(["-e", "-c", script]).current_dir(directory);
    run(&mut shell, TIME_LIMIT)?.exits(exit::OK)?;
    Ok(())
}
