//! The original and the fixed object of each candidate, made and compared.

use std::fs;
use std::path::{Path, PathBuf};

use super::pairing::Candidate;
use crate::compare::Comparison;
use crate::compile::{Compile, CompileError, compile_all, is_link_time, real_path};
use crate::layouts::LayoutComparison;
use crate::refusal::Refusal;
use crate::request::BuildError;
use crate::source::{Trees, is_supported, renumbered};
use crate::unit::{ObjectFileError, Unit};

/// A compile whose code the fix changes.
pub(crate) struct ChangedUnit {
    /// Its source file, by its real path.
    pub(crate) source: PathBuf,
    pub(crate) comparison: Comparison,
    pub(crate) layouts: LayoutComparison,
    /// An option by which the compiler added code of its own.
    pub(crate) instrumentation: Option<String>,
}

/// Makes the two objects of each candidate. The tree must hold the fixed source; it holds the
/// original one afterwards.
pub(crate) struct ObjectFiles<'a> {
    pub(crate) trees: &'a Trees,
    /// Where the user has the source.
    pub(crate) home: &'a Path,
    pub(crate) work: &'a Path,
    /// What the fix changed, relative to the tree.
    pub(crate) touched: &'a [PathBuf],
}

impl ObjectFiles<'_> {
    /// Compiles and compares. Returns what differs, with its source file.
    pub(crate) fn compare(&self, candidates: &[Candidate]) -> Result<Vec<ChangedUnit>, BuildError> {
        let compiles = candidates.iter().map(|it| it.fixed.clone());
        let fixed = self.compile_fixed(&compiles.collect::<Vec<_>>())?;
        self.trees
            .bring_back_original()
            .map_err(BuildError::io("swap", self.work))?;
        let compiles: Vec<_> = candidates.iter().map(|it| it.original.clone()).collect();
        let original = self.compile(&compiles, "original-objects")?;
        let mut units = Vec::new();
        let mut refusals = Vec::new();
        let objects = original.into_iter().zip(fixed);
        for (compile, (original, fixed)) in compiles.iter().zip(objects) {
            let (original, fixed) = match (original, fixed) {
                (Ok(original), Ok(fixed)) => (original, fixed),
                (Err(_), Ok(fixed)) if !compile.source_path().exists() => {
                    units.push(self.new_source(compile, &fixed)?);
                    continue;
                }
                // A trial of the build that failed there, too.
                (Err(_), Err(_)) if !compile.product.is_file() => continue,
                (Err(error), _) | (_, Err(error)) => return Err(error.into()),
            };
            if compile.is_assembly() {
                if !same_file(&original, &fixed) {
                    refusals.push(Refusal::Assembly {
                        source_file: compile.source.clone(),
                    });
                }
                continue;
            }
            let paths = [&original, &fixed];
            let original = Unit::read(&original, &compile.source)?;
            let comparison = Comparison::new(original, Unit::read(&fixed, &compile.source)?);
            if comparison.is_same() {
                continue;
            }
            if is_link_time(compile) {
                refusals.push(Refusal::LinkTimeOptimisation {
                    functions: comparison.names_of_changed(),
                    source_file: compile.source.clone(),
                });
            }
            units.push(ChangedUnit {
                source: source_of(compile),
                layouts: layouts(paths, &comparison)?,
                instrumentation: compile.instrumentation(),
                comparison,
            });
        }
        if refusals.is_empty() {
            Ok(units)
        } else {
            Err(BuildError::refused(refusals))
        }
    }

    /// A source file that only the fix has.
    fn new_source(&self, compile: &Compile, object: &Path) -> Result<ChangedUnit, BuildError> {
        let fixed = Unit::read(object, &compile.source)?;
        Ok(ChangedUnit {
            source: source_of(compile),
            comparison: Comparison::new(Unit::empty(&compile.source), fixed),
            layouts: LayoutComparison::default(),
            instrumentation: None,
        })
    }

    /// With the original's line numbers where that compiles.
    fn compile_fixed(
        &self,
        candidates: &[Compile],
    ) -> Result<Vec<Result<PathBuf, CompileError>>, BuildError> {
        let plain = self.renumber()?;
        let mut objects = self.compile(candidates, "fixed-objects")?;
        for (path, text) in plain {
            fs::write(&path, text).map_err(BuildError::io("write", &path))?;
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
        for file in self.touched.iter().filter(|file| is_supported(file)) {
            let (original, fixed) = (
                self.trees.original().join(file),
                self.trees.current().join(file),
            );
            if !original.exists() || !fixed.exists() {
                continue;
            }
            let io = BuildError::io("renumber", &fixed);
            let text = fs::read(&fixed).map_err(&io)?;
            let renumbered = renumbered(&original, &fixed).map_err(&io)?;
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
        fs::create_dir(&outputs).map_err(BuildError::io("create", &outputs))?;
        Ok(compile_all(
            candidates,
            &outputs,
            &self.trees.current(),
            self.home,
        ))
    }
}

/// One path for each source file, however a command line names it.
fn source_of(compile: &Compile) -> PathBuf {
    let path = compile.source_path();
    real_path(&path).unwrap_or(path)
}

/// How the types of two objects, original and fixed, differ.
fn layouts(
    objects: [&PathBuf; 2],
    comparison: &Comparison,
) -> Result<LayoutComparison, ObjectFileError> {
    let source_file = || comparison.original.source.clone();
    let read = |path: &PathBuf| {
        fs::read(path).map_err(|source| ObjectFileError::Unreadable {
            source_file: source_file(),
            source,
        })
    };
    let [original, fixed] = objects;
    let layouts = LayoutComparison::between(&read(original)?, &read(fixed)?, comparison);
    layouts.map_err(|error| ObjectFileError::Malformed {
        source_file: source_file(),
        reason: format!("its debugging information: {error}"),
    })
}

fn same_file(first: &Path, second: &Path) -> bool {
    matches!((fs::read(first), fs::read(second)), (Ok(first), Ok(second)) if first == second)
}
