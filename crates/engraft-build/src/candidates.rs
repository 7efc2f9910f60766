//! Which compiles the fix may have changed, and their original and fixed objects.

mod same;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::command::{Compile, compiles};
use crate::compare::Comparison;
use crate::compile::{CompileError, compile_all};
use crate::error::BuildError;
use crate::record::Record;
use crate::refusal::Refusal;
use crate::renumber;
use crate::tree::Trees;
use crate::unit::Unit;

/// The compiles that the fix may have changed.
pub(crate) struct Candidates {
    pub(crate) compiles: Vec<Compile>,
    /// How many objects the fixed build made anew, or should have.
    pub(crate) considered: usize,
}

impl Candidates {
    /// The compiles of the second build whose objects differ from the first build's, and those of the first whose
    /// source file the fix touches: not every build system notices all changes.
    ///
    /// Both trees must be as the builds left them.
    pub(crate) fn new(
        first: &[Record],
        second: &[Record],
        touched: &[PathBuf],
        trees: &Trees,
    ) -> Self {
        let tree = trees.current();
        let is_touched = |compile: &Compile| {
            let source = fs::canonicalize(compile.source_path()).unwrap_or(compile.source_path());
            touched.iter().any(|file| tree.join(file) == source)
        };
        let differs = |compile: &Compile| {
            let Ok(output) = compile.output.strip_prefix(&tree) else {
                return true;
            };
            !same::same_program(&trees.original().join(output), &compile.output)
        };
        // By output and source: the last compile of an object is the one that counts.
        let key = |compile: &Compile| (compile.output.clone(), compile.source.clone());
        let early = first.iter().flat_map(compiles).filter(is_touched);
        let mut all: BTreeMap<_, _> = early
            .map(|compile| (key(&compile), Some(compile)))
            .collect();
        for compile in second.iter().flat_map(compiles) {
            all.insert(key(&compile), Some(compile).filter(differs));
        }
        Self {
            considered: all.len(),
            compiles: all.into_values().flatten().collect(),
        }
    }
}

/// Makes the two objects of each candidate. The tree must hold the fixed source; it holds the original one
/// afterwards.
pub(crate) struct Objects<'a> {
    pub(crate) trees: &'a Trees,
    /// Where the user has the source.
    pub(crate) home: &'a Path,
    pub(crate) work: &'a Path,
    /// What the fix changed, relative to the tree.
    pub(crate) touched: &'a [PathBuf],
}

impl Objects<'_> {
    /// Compiles and compares. Returns what differs, with its source file.
    pub(crate) fn compare(
        &self,
        candidates: &[Compile],
    ) -> Result<Vec<(PathBuf, Comparison)>, BuildError> {
        let fixed = self.compile_fixed(candidates)?;
        self.trees
            .bring_back_original()
            .map_err(self.io("swap", self.work))?;
        let original = self.compile(candidates, "original-objects")?;
        let mut comparisons = Vec::new();
        let mut refusals = Vec::new();
        let objects = original.into_iter().zip(fixed);
        for (compile, (original, fixed)) in candidates.iter().zip(objects) {
            let (original, fixed) = (original?, fixed?);
            if compile.is_assembly() {
                if !same_file(&original, &fixed) {
                    refusals.push(Refusal::Assembly {
                        source_file: compile.source.clone(),
                    });
                }
                continue;
            }
            let original = Unit::read(&original, &compile.source)?;
            let comparison = Comparison::new(original, Unit::read(&fixed, &compile.source)?);
            if !comparison.is_same() {
                comparisons.push((compile.source_path(), comparison));
            }
        }
        if refusals.is_empty() {
            Ok(comparisons)
        } else {
            Err(BuildError::Refused { refusals })
        }
    }

    /// With the original's line numbers where that compiles.
    fn compile_fixed(
        &self,
        candidates: &[Compile],
    ) -> Result<Vec<Result<PathBuf, CompileError>>, BuildError> {
        let plain = self.renumber()?;
        let mut objects = self.compile(candidates, "fixed-objects")?;
        for (path, text) in plain {
            fs::write(&path, text).map_err(self.io("write", &path))?;
        }
        let failed: Vec<_> = candidates
            .iter()
            .zip(&objects)
            .filter(|(_, object)| object.is_err())
            .map(|(compile, _)| compile.clone())
            .collect();
        let mut again = self.compile(&failed, "fixed-objects-as-is")?.into_iter();
        for object in objects.iter_mut().filter(|object| object.is_err()) {
            if let Some(result) = again.next() {
                tracing::debug!("line numbers could not be kept in one object");
                *object = result;
            }
        }
        Ok(objects)
    }

    /// Puts line directives into the touched files. Returns their text as it was.
    fn renumber(&self) -> Result<Vec<(PathBuf, Vec<u8>)>, BuildError> {
        let mut plain = Vec::new();
        for file in self
            .touched
            .iter()
            .filter(|file| renumber::is_supported(file))
        {
            let (original, fixed) = (
                self.trees.original().join(file),
                self.trees.current().join(file),
            );
            if !original.exists() || !fixed.exists() {
                continue;
            }
            let io = self.io("renumber", &fixed);
            let text = fs::read(&fixed).map_err(&io)?;
            let renumbered = renumber::renumbered(&original, &fixed).map_err(&io)?;
            fs::write(&fixed, renumbered).map_err(&io)?;
            plain.push((fixed.clone(), text));
        }
        Ok(plain)
    }

    fn compile(
        &self,
        candidates: &[Compile],
        directory: &str,
    ) -> Result<Vec<Result<PathBuf, CompileError>>, BuildError> {
        let outputs = self.work.join(directory);
        fs::create_dir(&outputs).map_err(self.io("create", &outputs))?;
        Ok(compile_all(
            candidates,
            &outputs,
            &self.trees.current(),
            self.home,
        ))
    }

    fn io<'p>(
        &self,
        action: &'static str,
        path: &'p Path,
    ) -> impl Fn(std::io::Error) -> BuildError + 'p {
        move |source| BuildError::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

fn same_file(first: &Path, second: &Path) -> bool {
    matches!((fs::read(first), fs::read(second)), (Ok(first), Ok(second)) if first == second)
}
