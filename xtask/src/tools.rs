//! The programs that the tasks call, and the installation of missing ones.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use engraft_testkit::is_root;

/// A program and the Debian package that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tool {
    /// As it is called.
    pub program: &'static str,
    /// As apt knows it.
    pub package: &'static str,
}

/// What building a victim and a patch needs.
pub const COMPILER: &[Tool] = &[
    Tool {
        program: "gcc",
        package: "gcc",
    },
    Tool {
        program: "make",
        package: "make",
    },
    Tool {
        program: "patch",
        package: "patch",
    },
    Tool {
        program: "readelf",
        package: "binutils",
    },
];

/// What unpacking and building a Debian source package of an autotools project needs besides.
pub const SOURCE_PACKAGES: &[Tool] = &[
    Tool {
        program: "dpkg-source",
        package: "dpkg-dev",
    },
    Tool {
        program: "autoreconf",
        package: "autoconf",
    },
    Tool {
        program: "automake",
        package: "automake",
    },
    Tool {
        program: "libtoolize",
        package: "libtool",
    },
];

/// What the tests call or compile with besides.
pub const TESTS: &[Tool] = &[
    Tool {
        program: "g++",
        package: "g++",
    },
    Tool {
        program: "clang",
        package: "clang",
    },
    Tool {
        program: "ld.lld",
        package: "lld",
    },
    Tool {
        program: "musl-gcc",
        package: "musl-tools",
    },
    Tool {
        program: "gdb",
        package: "gdb",
    },
    Tool {
        program: "mount",
        package: "mount",
    },
    Tool {
        program: "prlimit",
        package: "util-linux",
    },
];

/// Makes sure that the tools are there: installs missing ones as root, and otherwise fails with the
/// command that installs them.
pub fn require(tools: &[Tool]) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories: Vec<_> = std::env::split_paths(&path).collect();
    let missing = missing(tools, |program| has(&directories, program));
    // A C compiler without the C library's headers compiles nothing.
    let missing = match Path::new("/usr/include/stdio.h").exists() {
        true => missing,
        false => [missing, vec!["libc6-dev"]].concat(),
    };
    if missing.is_empty() {
        return Ok(());
    }
    ensure!(
        has(&directories, "apt-get"),
        "missing: {}",
        missing.join(", ")
    );
    install(&missing)
}

/// Installs packages as root, and otherwise fails with the command that does.
pub fn install(packages: &[&str]) -> Result<()> {
    let advice = advice(packages);
    ensure!(is_root()?, "{advice}");
    println!("Installing {} ...", packages.join(" "));
    apt_get(&["update"]).context(advice.clone())?;
    let install = ["install", "--yes", "--no-install-recommends"];
    apt_get(&[&install[..], packages].concat()).context(advice)
}

fn missing(tools: &[Tool], has: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let missing = tools.iter().filter(|tool| !has(tool.program));
    missing.map(|tool| tool.package).collect()
}

fn advice(packages: &[&str]) -> String {
    let packages = packages.join(" ");
    format!("missing packages; as root run: apt-get update && apt-get install --yes {packages}")
}

fn has(directories: &[impl AsRef<Path>], program: &str) -> bool {
    directories
        .iter()
        .any(|directory| directory.as_ref().join(program).is_file())
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive");
    let status = command.status().context("failed to start apt-get")?;
    if !status.success() {
        bail!("apt-get {} ended with {status}", arguments.join(" "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_tools_are_named_by_their_packages() {
        let missing = missing(COMPILER, |program| {
            program != "readelf" && program != "patch"
        });
        assert_eq!(missing, ["patch", "binutils"]);
        assert!(advice(&missing).ends_with("apt-get install --yes patch binutils"));
    }

    #[test]
    fn a_program_is_looked_for_in_the_path() {
        assert!(has(&["/nowhere", "/bin"], "sh"));
        assert!(!has(&["/nowhere"], "sh"));
    }
}
