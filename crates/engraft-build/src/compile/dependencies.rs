//! Which files the compiler reads.
//!
//! The compiler is asked, with the recorded options: make may not know of all headers, and most
//! packages that are built from a clean source tell it of none.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use super::command::{Compile, Identity};
use super::compiler::preprocessor;
use super::parallel::each;

/// The files that each compile reads, by their real paths.
pub(crate) struct Reads {
    files: BTreeMap<Identity, Option<BTreeSet<PathBuf>>>,
}

impl Reads {
    /// Asks the compiler. The tree must be as the last build left it.
    pub(crate) fn ask(compiles: &[Compile]) -> Self {
        let distinct: BTreeMap<_, _> = compiles.iter().map(|c| (c.identity(), c)).collect();
        let distinct: Vec<_> = distinct.into_iter().collect();
        let answers = each(&distinct, |_, (_, compile)| included(compile));
        let identities = distinct.into_iter().map(|(identity, _)| identity);
        Self {
            files: identities.zip(answers).collect(),
        }
    }

    /// What a compile reads, its source included. `None` if the compiler does not say.
    pub(crate) fn of(&self, compile: &Compile) -> Option<&BTreeSet<PathBuf>> {
        self.files.get(&compile.identity())?.as_ref()
    }

    /// Those of `files`, which are relative to `tree`, that none of the compiles reads. A file that
    /// is no longer there is not looked for.
    pub(crate) fn unread(&self, files: &[PathBuf], tree: &Path) -> Vec<PathBuf> {
        let is_unread = |file: &&PathBuf| {
            let Some(path) = real_path(&tree.join(file)) else {
                return false;
            };
            let mut read = self.files.values().flatten();
            !read.any(|files| files.contains(&path))
        };
        files.iter().filter(is_unread).cloned().collect()
    }
}

pub(crate) fn real_path(path: &Path) -> Option<PathBuf> {
    fs::canonicalize(path).ok()
}

/// The files that the compile reads. `None` if the compiler does not say.
fn included(compile: &Compile) -> Option<BTreeSet<PathBuf>> {
    let source = real_path(&compile.source_path())?;
    let output = preprocessor(compile).output().ok()?;
    let directory = &compile.record.directory;
    let files = prerequisites(&output.stdout).filter_map(|file| real_path(&directory.join(file)));
    let files = files.chain([source]);
    output.status.success().then(|| files.collect())
}

/// The files after the colon of make's rules. Spaces and `#` in names are escaped, and a backslash
/// continues a line.
fn prerequisites(rules: &[u8]) -> impl Iterator<Item = PathBuf> {
    let mut words = vec![Vec::new()];
    let mut bytes = rules.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let meant = match (byte, bytes.peek()) {
            (b'\\', Some(b' ' | b'#')) | (b'$', Some(b'$')) => bytes.next(),
            (b'\\', Some(b'\n')) | (b' ' | b'\n', _) => None,
            _ => Some(byte),
        };
        match (meant, words.last_mut()) {
            (Some(byte), Some(word)) => word.push(byte),
            _ => words.push(Vec::new()),
        }
    }
    let files = words.into_iter().filter(|word| !word.is_empty());
    files
        .filter(|word| !word.ends_with(b":"))
        .map(|word| PathBuf::from(OsString::from_vec(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_make() {
        let rules =
            b"a.o: src/a.c \\\n  /usr/include/x.h with\\ space.h a\\#b.h \\\n c$$d.h\nb.o: b.c\n";
        let files: Vec<_> = prerequisites(rules).collect();
        let expected = [
            "src/a.c",
            "/usr/include/x.h",
            "with space.h",
            "a#b.h",
            "c$d.h",
            "b.c",
        ];
        assert_eq!(files, expected.map(PathBuf::from));
    }
}
