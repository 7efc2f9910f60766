//! One build of a patch, from the request to the file.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use engraft_patch::{Concessions, Missing, Patch};

use super::inputs::{patch_name, read_binaries};
use crate::assemble::{Assembled, assemble};
use crate::binary::Binary;
use crate::layouts::Harmless;
use crate::record::WorkDirectory;
use crate::request::{
    BuildError, BuildOutcome, BuildReport, BuildRequest, Event, MissingSource, Step,
};

/// Builds a patch file from a fix.
///
/// # Errors
///
/// Why there is no patch. The user's source and binaries are never changed; the build's own
/// directory is removed, unless the request keeps it.
pub fn build(request: &BuildRequest) -> Result<BuildReport, BuildError> {
    let started = Instant::now();
    let name = patch_name(request)?;
    let binaries = read_binaries(&request.binaries)?;
    let home =
        fs::canonicalize(&request.source).map_err(BuildError::io("find", &request.source))?;
    if let Some(log) = &request.log {
        File::create(log).map_err(BuildError::io("create", log))?;
    }
    let temporary = std::env::temp_dir();
    let mut directory = WorkDirectory::new(&request.wrapper)
        .map_err(BuildError::io("create a directory in", &temporary))?;
    let run = BuildRun {
        request,
        home,
        work: directory.path().to_owned(),
        directory: &directory,
    };
    let result = run.build(name, &binaries, started);
    if request.keep {
        request.progress.tell(&Event::Kept(directory.keep()));
    }
    result
}

impl BuildRun<'_> {
    fn build(
        &self,
        name: String,
        binaries: &[Binary],
        started: Instant,
    ) -> Result<BuildReport, BuildError> {
        let request = self.request;
        let changes = self.changes(binaries)?;
        let progress = &request.progress;
        let Assembled {
            objects,
            mut missing_sources,
            harmless,
            accepted,
        } = progress.step(Step::Assemble, || {
            assemble(&changes.units, binaries, &request.accept_layouts)
        })?;
        if !missing_sources.is_empty() {
            self.find_holders(&mut missing_sources, &changes.units)?;
        }
        if !missing_sources.is_empty() && (objects.is_empty() || !request.partial) {
            return Err(BuildError::Incomplete {
                missing_sources,
                binaries: request.binaries.clone(),
            });
        }
        if objects.is_empty() && missing_sources.is_empty() && !changes.unread.is_empty() {
            return Err(BuildError::NotCompiled {
                files: changes.unread,
            });
        }
        let mut report = BuildReport {
            objects: objects.iter().map(|(_, report)| report.clone()).collect(),
            outcome: BuildOutcome::NoChange,
            missing_sources,
            harmless: harmless
                .into_iter()
                .map(|Harmless { name, argument }| (name, argument))
                .collect(),
            unread: changes.unread,
            compared: changes.considered,
            builds: changes.builds,
            extraction: Duration::ZERO,
        };
        if !objects.is_empty() {
            let objects = objects.into_iter().map(|(object, _)| object).collect();
            let concessions = concessions(&report.missing_sources, accepted.into_iter().collect());
            let patch = Patch {
                name,
                objects,
                concessions,
            };
            let file = engraft_patch::write(&patch)?;
            if let Some(output) = &request.output {
                fs::write(output, &file).map_err(BuildError::io("write", output))?;
            }
            report.outcome = BuildOutcome::Patch { patch, file };
        }
        report.extraction = started.elapsed().saturating_sub(report.builds);
        Ok(report)
    }
}

/// One run, with its private directory.
pub(super) struct BuildRun<'a> {
    pub(super) request: &'a BuildRequest,
    pub(super) home: PathBuf,
    pub(super) work: PathBuf,
    pub(super) directory: &'a WorkDirectory,
}

fn concessions(missing_sources: &[MissingSource], accepted_layouts: Vec<String>) -> Concessions {
    let missing = |file: &MissingSource| -> Vec<Missing> {
        let source_file = file.source_file.display().to_string();
        let names = file.functions.iter().cloned();
        names
            .map(|name| Missing {
                name,
                source_file: source_file.clone(),
            })
            .collect()
    };
    Concessions {
        missing: missing_sources.iter().flat_map(missing).collect(),
        accepted_layouts,
    }
}
