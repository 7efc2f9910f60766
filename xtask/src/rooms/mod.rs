//! Which room may use which: dependencies point downwards, and nothing else is allowed.
//!
//! A room is a crate, or a folder at the top of a crate. The tables (`crates.rs`, `folders.rs`) are
//! the law, and the workspace is held against them: a new room or a new edge is written down there
//! first, where a reviewer sees it. An edge that nobody uses any more is taken out of the table.

mod circles;
mod crates;
mod folders;
mod resolve;
mod size;
mod source;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cargo;
use resolve::Uses;
use source::Source;

/// What `cargo xtask rooms` can be told.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The root of another checkout to count; this one by default.
    #[arg(long, value_name = "DIR")]
    workspace: Option<PathBuf>,
    /// Show which folders each folder uses, too.
    #[arg(long)]
    folders: bool,
}

/// Prints a table of what each crate is made of, and the circles of files that are too large.
///
/// # Errors
/// The sources cannot be read or parsed.
pub fn print(options: &Options) -> Result<()> {
    let root = options.workspace.as_deref().unwrap_or(cargo::workspace());
    println!("{}", size::HEADING);
    let mut circles = Vec::new();
    let mut folders = Vec::new();
    for package in packages(&metadata(root)?)? {
        let sources = package.sources()?;
        println!("{}", size::line(&package.name, &sources));
        circles.extend(circles::faults(&package.name, &sources));
        folders.extend(folders::lines(&package.name, &sources));
    }
    circles.iter().for_each(|line| println!("\n{line}"));
    if options.folders {
        println!("\n{}", folders.join("\n"));
    }
    Ok(())
}

/// Holds the workspace against the tables.
///
/// # Errors
/// Names all that the tables do not allow, and every circle of files that is too large.
pub fn check() -> Result<()> {
    let metadata = metadata(cargo::workspace())?;
    let mut faults = crates::faults(&metadata)?;
    for package in packages(&metadata)? {
        let sources = package.sources()?;
        faults.extend(circles::faults(&package.name, &sources));
        if let Some(plan) = folders::plan_of(&package.name) {
            faults.extend(folders::faults(plan, &sources));
        }
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

/// The workspace as cargo describes it.
fn metadata(root: &Path) -> Result<Value> {
    let mut metadata = cargo::command();
    metadata
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root);
    let output = metadata
        .output()
        .context("failed to start cargo metadata")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// A crate of the workspace.
struct Package {
    name: String,
    /// The files that the library and the programs begin with.
    roots: Vec<PathBuf>,
}

/// The sources of a library or a program, and what each file uses.
struct Parsed {
    source: Source,
    uses: Uses,
}

impl Package {
    /// Reads the library and the programs.
    fn sources(&self) -> Result<Vec<Parsed>> {
        let parsed = self.roots.iter().map(|root| {
            let source = Source::read(root)?;
            let uses = resolve::uses(&source);
            Ok(Parsed { source, uses })
        });
        parsed.collect()
    }
}

fn packages(metadata: &Value) -> Result<Vec<Package>> {
    let packages = metadata["packages"].as_array();
    let packages = packages.context("the metadata lists no packages")?;
    let package = |package: &Value| {
        let name = package["name"].as_str().context("a package has no name")?;
        let targets = package["targets"].as_array().map(Vec::as_slice);
        let products = targets.unwrap_or_default().iter().filter(|target| {
            let kinds = target["kind"].as_array().map(Vec::as_slice);
            let is_product = |kind: &Value| ["lib", "cdylib", "bin"].iter().any(|it| kind == it);
            kinds.unwrap_or_default().iter().any(is_product)
        });
        let roots = products.filter_map(|target| target["src_path"].as_str());
        Ok(Package {
            name: name.to_owned(),
            roots: roots.map(PathBuf::from).collect(),
        })
    };
    packages.iter().map(package).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A crate of these files, as it would be read from a folder.
    pub(super) fn made_up(files: &[(&str, &str)]) -> Parsed {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let root = folder.path().join(files[0].0);
        let package = Package {
            name: "made-up".to_owned(),
            roots: vec![root],
        };
        package.sources().unwrap().remove(0)
    }

    #[test]
    fn dependencies_point_downwards() {
        check().unwrap();
    }

    #[test]
    fn structs_are_counted_by_fields_unless_they_describe_bytes() {
        let parsed = made_up(&[(
            "lib.rs",
            "mod a { struct Pair(u8, u8); } struct One { x: u8 } #[repr(C)] struct Bytes { a: u8, b: u8, c: u8 }",
        )]);
        let line = size::line("made-up", &[parsed]);
        assert_eq!(line, "| made-up | 1 | 0 | none | `Pair` | 2 |");
    }
}
