//! Which of the changed files the compiler reads.
//!
//! A fix may change what is no C: documentation, tests that the build command does not build, sources in other
//! languages. No compile tells of those, so nothing that they mean for the program is in the patch.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::command::{Compile, compiles};
use crate::compile::{each, preprocessor};
use crate::record::Record;

/// Those of `files`, which are relative to `tree`, that none of the recorded compiles reads: neither a source nor
/// included. The tree must be as the last build left it. A file that is no longer there is not looked for.
pub(crate) fn unread(files: &[PathBuf], records: [&[Record]; 2], tree: &Path) -> Vec<PathBuf> {
    let with_real_path = |file: &PathBuf| Some((real_path(&tree.join(file))?, file.clone()));
    let mut unread: BTreeMap<PathBuf, PathBuf> = files.iter().filter_map(with_real_path).collect();
    let [first, second] = records;
    // The second build compiles what reads a changed file, if it notices: it knows the answer most often.
    let mut compiles: Vec<Compile> = second.iter().chain(first).flat_map(compiles).collect();
    let mut seen = BTreeSet::new();
    compiles.retain(|compile| seen.insert((compile.output.clone(), compile.source.clone())));
    // What a configure script tries is gone.
    compiles.retain(|compile| compile.source_path().is_file());
    for source in compiles.iter().map(Compile::source_path) {
        unread.remove(&real_path(&source).unwrap_or(source));
    }
    let unread = Mutex::new(unread);
    let remaining = || unread.lock().unwrap_or_else(PoisonError::into_inner);
    each(&compiles, |_, compile| {
        if remaining().is_empty() {
            return;
        }
        match included(compile) {
            Some(files) => remaining().retain(|path, _| !files.contains(path)),
            // It may read any of them.
            None => remaining().clear(),
        }
    });
    let unread = unread.into_inner().unwrap_or_else(PoisonError::into_inner);
    unread.into_values().collect()
}

fn real_path(path: &Path) -> Option<PathBuf> {
    fs::canonicalize(path).ok()
}

/// The files that the compile reads. `None` if the compiler does not say.
fn included(compile: &Compile) -> Option<BTreeSet<PathBuf>> {
    let output = preprocessor(compile).output().ok()?;
    let directory = &compile.record.directory;
    let files = prerequisites(&output.stdout).filter_map(|file| real_path(&directory.join(file)));
    output.status.success().then(|| files.collect())
}

/// The files behind the colon of make's rules. Spaces and `#` in names are escaped, and long lines are continued
/// behind a backslash.
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
