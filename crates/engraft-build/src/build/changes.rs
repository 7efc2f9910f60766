//! Both builds, and what the fix changed in compiled code.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::build_run::BuildRun;
use crate::assemble::find_holders;
use crate::binary::Binary;
use crate::candidates::{
    Candidates, ChangedUnit, ObjectFiles, PrebuiltObjects, for_each_file, may_be_in,
};
use crate::record::{Record, Recorder};
use crate::request::{BuildError, MissingSource, Stage, Step};
use crate::source::{Fix, TreeChanges, Trees, is_supported};

/// What the fix changed in compiled code.
pub(super) struct Changes {
    pub(super) units: Vec<ChangedUnit>,
    /// Changed files that no compile reads.
    pub(super) unread: Vec<PathBuf>,
    /// Objects that the second build made anew.
    pub(super) considered: usize,
    pub(super) builds: Duration,
}

impl BuildRun<'_> {
    pub(super) fn changes(&self, binaries: &[Binary]) -> Result<Changes, BuildError> {
        let progress = &self.request.progress;
        let trees = progress.step(Step::Copy, || Trees::new(&self.home, &self.work));
        let trees = trees.map_err(BuildError::io("copy", &self.home))?;
        let tree = trees.current();
        let fix = Fix::examine(&self.request.fix, &tree)?;
        let recorder = Recorder::new(&self.work, &self.request.wrapper);
        let recorder = recorder.map_err(BuildError::io("make compiler wrappers in", &self.work))?;
        let started = Instant::now();
        let first = self.run(&recorder, &tree, Stage::Original)?;
        let mut builds = started.elapsed();
        trees
            .keep_original()
            .map_err(BuildError::io("copy", &tree))?;
        let touched = fix.apply(&tree, &trees.original())?;
        let started = Instant::now();
        let mut second = self.run(&recorder, &tree, Stage::Fixed)?;
        builds += started.elapsed();
        let started = Instant::now();
        let (rest, unknown) =
            self.remake_prebuilt_objects(&recorder, [&first, &second], &touched)?;
        builds += started.elapsed();
        second.extend(rest);
        if !(first.is_empty() && second.is_empty()) {
            self.refuse_unknown(unknown, &touched, binaries)?;
        }
        let Candidates {
            compiles,
            considered,
            unread,
            unseen,
        } = progress
            .step(Step::Dependencies, || {
                Candidates::new(&first, &second, &touched, &trees)
            })
            .map_err(BuildError::io("compare", &tree))?;
        tracing::info!(
            first = first.len(),
            second = second.len(),
            considered,
            "builds recorded"
        );
        if considered == 0 && touched.iter().any(|file| is_supported(file)) {
            self.explain_nothing(&trees, &touched, first.is_empty() && second.is_empty())?;
        }
        self.refuse_unseen(unseen, binaries)?;
        let objects = ObjectFiles {
            trees: &trees,
            home: &self.home,
            work: &self.work,
            touched: &touched,
        };
        let units = progress.step(Step::Compare, || objects.compare(&compiles))?;
        Ok(Changes {
            units,
            unread,
            considered,
            builds,
        })
    }

    /// Makes the build compile prebuilt objects again that may read what the fix changes. Returns
    /// the compiles, and the objects that it did not make.
    fn remake_prebuilt_objects(
        &self,
        recorder: &Recorder,
        records: [&[Record]; 2],
        touched: &[PathBuf],
    ) -> Result<(Vec<Record>, Vec<PathBuf>), BuildError> {
        let tree = self.work.join("tree");
        let prebuilt = PrebuiltObjects::find(&tree, &self.home, records);
        let mut prebuilt = prebuilt.map_err(BuildError::io("search", &tree))?;
        if !prebuilt
            .may_read(touched, &tree)
            .map_err(BuildError::io("search", &tree))?
        {
            return Ok((Vec::new(), Vec::new()));
        }
        prebuilt
            .move_out(&self.work)
            .map_err(BuildError::io("move", &tree))?;
        let made = self.run(recorder, &tree, Stage::Prebuilt);
        let unknown = prebuilt.restore().map_err(BuildError::io("move", &tree))?;
        // A build that cannot make them again may do without.
        match made {
            Ok(records) => Ok((records, unknown)),
            Err(BuildError::BuildFailed { .. }) => Ok((self.records(Stage::Prebuilt)?, unknown)),
            Err(error) => Err(error),
        }
    }

    /// Looks into the original's programs and libraries.
    pub(super) fn find_holders(
        &self,
        missing_sources: &mut [MissingSource],
        units: &[ChangedUnit],
    ) -> Result<(), BuildError> {
        let tree = self.work.join("tree");
        let mut files = Vec::new();
        for_each_file(&tree, &mut |path| files.push(path.to_owned()))
            .map_err(BuildError::io("search", &tree))?;
        find_holders(missing_sources, units, &files, &tree);
        Ok(())
    }

    /// An object of unknown origin must not be in a binary.
    fn refuse_unknown(
        &self,
        objects: Vec<PathBuf>,
        touched: &[PathBuf],
        binaries: &[Binary],
    ) -> Result<(), BuildError> {
        let objects = self.in_a_binary(objects, binaries);
        if objects.is_empty() {
            return Ok(());
        }
        Err(BuildError::UnknownCompiles {
            objects,
            files: touched.to_vec(),
        })
    }

    /// An object that was compiled unseen must not be in a binary.
    fn refuse_unseen(&self, objects: Vec<PathBuf>, binaries: &[Binary]) -> Result<(), BuildError> {
        let objects = self.in_a_binary(objects, binaries);
        if objects.is_empty() {
            return Ok(());
        }
        Err(BuildError::UnseenCompiles { objects })
    }

    /// The objects that may be in one of the binaries, as paths in the tree.
    fn in_a_binary(&self, mut objects: Vec<PathBuf>, binaries: &[Binary]) -> Vec<PathBuf> {
        objects.retain(|object| binaries.iter().any(|binary| may_be_in(object, binary)));
        let tree = self.work.join("tree");
        let inside = |object: &PathBuf| object.strip_prefix(&tree).unwrap_or(object).to_owned();
        objects.iter().map(inside).collect()
    }

    /// No compile reads what the fix changes: says why, if the reason is known.
    fn explain_nothing(
        &self,
        trees: &Trees,
        touched: &[PathBuf],
        nothing_recorded: bool,
    ) -> Result<(), BuildError> {
        if !nothing_recorded {
            return Ok(());
        }
        let differs = |first: &Path, second: &Path| {
            TreeChanges::between(first, second).map_err(BuildError::io("compare", second))
        };
        let first = differs(&self.home, &trees.original())?;
        let mut second = differs(&trees.original(), &trees.current())?;
        let untouched = |file: &PathBuf| !touched.contains(file);
        second.changed.retain(untouched);
        second.added.retain(untouched);
        second.removed.retain(untouched);
        if first.is_empty() && second.is_empty() {
            return Err(BuildError::NothingRecompiled {
                files: touched.to_vec(),
            });
        }
        Err(BuildError::NoCompileRecorded)
    }
}
