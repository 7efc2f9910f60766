//! The files that the documents name exist.
//!
//! A document names a file by a link, or by a name in backquotes that ends as a source or document
//! does. The latter may leave out the folders that come first, as long as some file of the project
//! ends so.

use std::path::{Path, PathBuf};
use std::{fs, io};

use anyhow::{Context, Result, ensure};

use crate::cargo;

/// Names with these endings are files of the project.
const ENDINGS: [&str; 5] = [".rs", ".md", ".toml", ".sh", ".c"];

/// What the project's own files do not lie in.
const ELSEWHERE: [&str; 2] = ["target", ".git"];

/// Looks for all files that the documents name.
///
/// # Errors
/// Names all that are missing.
pub(super) fn check() -> Result<()> {
    let root = cargo::workspace();
    let mut files = Vec::new();
    collect(root, root, &mut files).context("failed to list the files of the project")?;
    let mut missing = Vec::new();
    for document in files.iter().filter(|path| is_document(path)) {
        let text = fs::read_to_string(root.join(document))
            .with_context(|| format!("failed to read {}", document.display()))?;
        missing.extend(faults(document, &text, &files));
    }
    ensure!(missing.is_empty(), "{}", missing.join("\n"));
    Ok(())
}

/// The changelog tells of files as they were.
fn is_document(path: &Path) -> bool {
    path.extension().is_some_and(|it| it == "md") && !path.ends_with("CHANGELOG.md")
}

/// All files below a folder, as paths from the root.
fn collect(root: &Path, folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            let is_elsewhere = ELSEWHERE.iter().any(|name| entry.file_name() == *name);
            if !is_elsewhere {
                collect(root, &path, files)?;
            }
        } else {
            files.push(path.strip_prefix(root).unwrap_or(&path).to_owned());
        }
    }
    Ok(())
}

/// A line for each file that a document names and that is not there.
fn faults(document: &Path, text: &str, files: &[PathBuf]) -> Vec<String> {
    let folder = document.parent().unwrap_or(document);
    let mut faults = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let links = links(line).filter(|link| !is_there(&folder.join(link), files));
        let named = names(line).filter(|name| !files.iter().any(|file| file.ends_with(name)));
        for name in links.chain(named) {
            let document = document.display();
            faults.push(format!(
                "{document}:{number} names {name}, which does not exist"
            ));
        }
    }
    faults
}

/// Whether a path leads to a file, or to a folder with files in it.
fn is_there(path: &Path, files: &[PathBuf]) -> bool {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            std::path::Component::ParentDir => {
                plain.pop();
            }
            other => plain.push(other),
        }
    }
    files.iter().any(|file| file.starts_with(&plain))
}

/// The targets of links into the project, without the part of the page.
fn links(line: &str) -> impl Iterator<Item = &str> {
    let targets = line.split("](").skip(1);
    let targets = targets.filter_map(|rest| rest.split([')', '#']).next());
    targets.filter(|target| !target.is_empty() && !target.contains("://"))
}

/// The names in backquotes that are names of files.
fn names(line: &str) -> impl Iterator<Item = &str> {
    let quoted = line.split('`').skip(1).step_by(2);
    quoted.filter(|name| {
        let is_word = !name.contains(|it: char| it.is_whitespace() || "*<>{}$".contains(it));
        // A bare ending is none, and a path from the root is another machine's.
        let is_ours = !name.starts_with(['.', '/', '-']);
        is_word && is_ours && ENDINGS.iter().any(|ending| name.ends_with(ending))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults_of(line: &str) -> Vec<String> {
        let files = [
            "README.md",
            "docs/door.md",
            "crates/a/src/door.rs",
            "docs/bench/a.svg",
        ];
        faults(Path::new("docs/door.md"), line, &files.map(PathBuf::from))
    }

    #[test]
    fn a_document_names_what_there_is() {
        for line in [
            "See [the door](door.md#states), [more](../README.md), [figures](bench) and [us](https://a.b/c.md).",
            "It is in `door.rs` (`src/door.rs`, `crates/a/src/door.rs`), and any `*.rs` or `/etc/a.toml`.",
            "A fence of `a.b()`, [x], (y.md) and nothing.rs.",
        ] {
            assert!(faults_of(line).is_empty(), "{line}: {:?}", faults_of(line));
        }
    }

    #[test]
    fn what_is_not_there_is_a_fault() {
        let faults = faults_of(
            "In `gone.rs`, `b/door.rs` and `oor.rs`; see [that](bench/b.svg) and [this](README.md).",
        );
        let names = ["README.md", "bench/b.svg", "gone.rs", "b/door.rs", "oor.rs"];
        for name in names {
            let fault = format!("docs/door.md:1 names {name}, which does not exist");
            assert!(faults.contains(&fault), "{name}: {faults:?}");
        }
        assert_eq!(faults.len(), names.len());
    }

    #[test]
    fn the_documents_name_files_that_exist() {
        check().unwrap();
    }
}
