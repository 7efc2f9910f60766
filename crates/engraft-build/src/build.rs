//! The way from a source fix to a patch.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use engraft_patch::{Concessions, Missing, Patch};

use crate::assemble::{Assembled, assemble, find_holders};
use crate::binary::{Binary, BinaryError};
use crate::candidates::{Candidates, ChangedUnit, Objects};
use crate::compile::last_lines;
use crate::error::{BuildError, Stage};
use crate::fix::Fix;
use crate::layouts::Harmless;
use crate::leftovers::{Leftovers, for_each_file, may_be_in};
use crate::progress::{Event, Progress, Step};
use crate::record::{Record, Recorder, read_records};
use crate::renumber;
use crate::tree::{TreeChanges, Trees};
use crate::work::Work;

/// What is to be built.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    /// The source that the binaries were built from. It is copied, never changed.
    pub source: PathBuf,
    /// A unified diff.
    pub fix: PathBuf,
    /// The programs and shared libraries that are to be patched.
    pub binaries: Vec<PathBuf>,
    /// The patch's name; without one, the fix's file name is made into it.
    pub name: Option<String>,
    /// The user's build command, run in a copy of `source`.
    pub command: Vec<OsString>,
    /// An executable whose `main` begins with [`crate::wrapper_main`].
    pub wrapper: PathBuf,
    /// Where the patch file goes, if it is to be written.
    pub output: Option<PathBuf>,
    /// Make the patch also if it is less than the fix.
    pub partial: bool,
    /// Types, `struct conn` or `conn`, whose layout the fix may change.
    pub accept_layouts: Vec<String>,
    /// Where the whole output of the build command goes, if it is wanted.
    pub log: Option<PathBuf>,
    /// Leave the directory in which the build took place.
    pub keep: bool,
    /// Who is told what is being done.
    pub progress: Progress,
}

/// What came of it.
#[derive(Debug)]
pub struct BuildReport {
    /// The patch, or that none is needed.
    pub outcome: Outcome,
    /// What changed, in each binary that holds some of it.
    pub objects: Vec<ChangedObject>,
    /// What of the fix is in none of the binaries: other programs of the same source, tests, libraries that the
    /// request did not name. Empty unless the request allows a partial patch.
    pub unplaced: Vec<Unplaced>,
    /// Types whose layout the fix changes, and why that does no harm. To be shown to the user.
    pub harmless: Vec<(String, String)>,
    /// Files that the fix changes and no recorded compile reads, neither as a source nor as a header: documentation,
    /// tests, other languages. What they mean for the program is not in the patch, unless the build makes C of them or
    /// they say how to build. To be shown to the user.
    pub unread: Vec<PathBuf>,
    /// Objects that the fixed build made anew and that were compared with the original's.
    pub compared: usize,
    /// Time spent in the user's two builds.
    pub builds: Duration,
    /// Time spent on everything else.
    pub extraction: Duration,
}

/// The patch, or that none is needed.
#[derive(Debug)]
pub enum Outcome {
    /// The patch and its bytes as a file.
    Patch {
        /// What it says.
        patch: Patch,
        /// Its form on disk.
        file: Vec<u8>,
    },
    /// The fix changes no code in the binary: other architecture, an option that is off, the same code after
    /// optimisation.
    NoChange,
}

/// What changed in one binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedObject {
    /// The binary.
    pub binary: PathBuf,
    /// Functions that get new code.
    pub changed: Vec<String>,
    /// Functions that only the fixed source has.
    pub new: Vec<String>,
}

/// A changed source file that is in no binary that was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unplaced {
    /// As the compiler's command line names it.
    pub source_file: PathBuf,
    /// Its changed functions, and variables.
    pub functions: Vec<String>,
    /// Programs and libraries of the build tree that have them, relative to it.
    pub holders: Vec<PathBuf>,
}

/// Builds a patch file from a fix.
pub fn build(request: &BuildRequest) -> Result<BuildReport, BuildError> {
    let started = Instant::now();
    let name = patch_name(request)?;
    let binaries = read_binaries(&request.binaries)?;
    let home = fs::canonicalize(&request.source).map_err(io("find", &request.source))?;
    if let Some(log) = &request.log {
        File::create(log).map_err(io("create", log))?;
    }
    let temporary = std::env::temp_dir();
    let mut directory =
        Work::new(&request.wrapper).map_err(io("create a directory in", &temporary))?;
    let session = Session {
        request,
        home,
        work: directory.path().to_owned(),
        directory: &directory,
    };
    let result = session.build(name, &binaries, started);
    if request.keep {
        request.progress.tell(&Event::Kept(directory.keep()));
    }
    result
}

impl Session<'_> {
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
            mut unplaced,
            harmless,
            accepted,
        } = progress.step(Step::Assemble, || {
            assemble(&changes.units, binaries, &request.accept_layouts)
        })?;
        if !unplaced.is_empty() {
            self.find_holders(&mut unplaced, &changes.units)?;
        }
        if !unplaced.is_empty() && (objects.is_empty() || !request.partial) {
            return Err(BuildError::Incomplete {
                unplaced,
                binaries: request.binaries.clone(),
            });
        }
        if objects.is_empty() && unplaced.is_empty() && !changes.unread.is_empty() {
            return Err(BuildError::NotCompiled {
                files: changes.unread,
            });
        }
        let mut report = BuildReport {
            objects: objects.iter().map(|(_, report)| report.clone()).collect(),
            outcome: Outcome::NoChange,
            unplaced,
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
            let concessions = concessions(&report.unplaced, accepted.into_iter().collect());
            let patch = Patch {
                name,
                objects,
                concessions,
            };
            let file = engraft_patch::write(&patch)?;
            if let Some(output) = &request.output {
                fs::write(output, &file).map_err(io("write", output))?;
            }
            report.outcome = Outcome::Patch { patch, file };
        }
        report.extraction = started.elapsed().saturating_sub(report.builds);
        Ok(report)
    }
}

/// One run, with its private directory.
struct Session<'a> {
    request: &'a BuildRequest,
    home: PathBuf,
    work: PathBuf,
    directory: &'a Work,
}

/// What the fix changed in compiled code.
struct Changes {
    units: Vec<ChangedUnit>,
    /// Changed files that no compile reads.
    unread: Vec<PathBuf>,
    /// Objects that the second build made anew.
    considered: usize,
    builds: Duration,
}

impl Session<'_> {
    fn changes(&self, binaries: &[Binary]) -> Result<Changes, BuildError> {
        let progress = &self.request.progress;
        let trees = progress.step(Step::Copy, || Trees::new(&self.home, &self.work));
        let trees = trees.map_err(io("copy", &self.home))?;
        let tree = trees.current();
        let fix = Fix::examine(&self.request.fix, &tree)?;
        let recorder = Recorder::new(&self.work, &self.request.wrapper);
        let recorder = recorder.map_err(io("make compiler wrappers in", &self.work))?;
        let started = Instant::now();
        let first = self.run(&recorder, &tree, Stage::Original)?;
        let mut builds = started.elapsed();
        trees.keep_original().map_err(io("copy", &tree))?;
        let touched = fix.apply(&tree, &trees.original())?;
        let started = Instant::now();
        let mut second = self.run(&recorder, &tree, Stage::Fixed)?;
        builds += started.elapsed();
        let started = Instant::now();
        let (rest, unknown) = self.make_leftovers_again(&recorder, [&first, &second], &touched)?;
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
            .map_err(io("compare", &tree))?;
        tracing::info!(
            first = first.len(),
            second = second.len(),
            considered,
            "builds recorded"
        );
        if considered == 0 && touched.iter().any(|file| renumber::is_supported(file)) {
            self.explain_nothing(&trees, &touched, first.is_empty() && second.is_empty())?;
        }
        self.refuse_unseen(unseen, binaries)?;
        let objects = Objects {
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

    /// Has the build make objects again that were in the tree before and may read what the fix changes. Returns the
    /// compiles, and the objects that it did not make.
    fn make_leftovers_again(
        &self,
        recorder: &Recorder,
        records: [&[Record]; 2],
        touched: &[PathBuf],
    ) -> Result<(Vec<Record>, Vec<PathBuf>), BuildError> {
        let tree = self.work.join("tree");
        let leftovers = Leftovers::find(&tree, &self.home, records);
        let mut leftovers = leftovers.map_err(io("search", &tree))?;
        if !leftovers
            .may_read(touched, &tree)
            .map_err(io("search", &tree))?
        {
            return Ok((Vec::new(), Vec::new()));
        }
        leftovers.take_away(&self.work).map_err(io("move", &tree))?;
        let made = self.run(recorder, &tree, Stage::Rest);
        let unknown = leftovers.put_back().map_err(io("move", &tree))?;
        // A build that cannot make them again may do without.
        match made {
            Ok(records) => Ok((records, unknown)),
            Err(BuildError::BuildFailed { .. }) => Ok((self.records(Stage::Rest)?, unknown)),
            Err(error) => Err(error),
        }
    }

    /// Looks into the original's programs and libraries.
    fn find_holders(
        &self,
        unplaced: &mut [Unplaced],
        units: &[ChangedUnit],
    ) -> Result<(), BuildError> {
        let tree = self.work.join("tree");
        let mut files = Vec::new();
        for_each_file(&tree, &mut |path| files.push(path.to_owned()))
            .map_err(io("search", &tree))?;
        find_holders(unplaced, units, &files, &tree);
        Ok(())
    }

    /// An object of unknown origin must not be in a binary.
    fn refuse_unknown(
        &self,
        mut objects: Vec<PathBuf>,
        touched: &[PathBuf],
        binaries: &[Binary],
    ) -> Result<(), BuildError> {
        objects.retain(|object| binaries.iter().any(|binary| may_be_in(object, binary)));
        if objects.is_empty() {
            return Ok(());
        }
        let tree = self.work.join("tree");
        let inside = |object: &PathBuf| object.strip_prefix(&tree).unwrap_or(object).to_owned();
        Err(BuildError::UnknownCompiles {
            objects: objects.iter().map(inside).collect(),
            files: touched.to_vec(),
        })
    }

    /// Nor must one that was compiled unseen.
    fn refuse_unseen(
        &self,
        mut objects: Vec<PathBuf>,
        binaries: &[Binary],
    ) -> Result<(), BuildError> {
        objects.retain(|object| binaries.iter().any(|binary| may_be_in(object, binary)));
        if objects.is_empty() {
            return Ok(());
        }
        let tree = self.work.join("tree");
        let inside = |object: &PathBuf| object.strip_prefix(&tree).unwrap_or(object).to_owned();
        Err(BuildError::UnseenCompiles {
            objects: objects.iter().map(inside).collect(),
        })
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
            TreeChanges::between(first, second).map_err(io("compare", second))
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

    /// Runs the build command and returns the compiles it made.
    fn run(
        &self,
        recorder: &Recorder,
        tree: &Path,
        stage: Stage,
    ) -> Result<Vec<Record>, BuildError> {
        let records = self.records_directory(stage);
        fs::create_dir(&records).map_err(io("create", &records))?;
        let log = match &self.request.log {
            Some(log) => log.clone(),
            None => self.work.join("build.log"),
        };
        let mut output = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(io("open", &log))?;
        writeln!(output, "== {}", stage.step()).map_err(io("write", &log))?;
        let errors = output.try_clone().map_err(io("create", &log))?;
        let Some((program, arguments)) = self.request.command.split_first() else {
            return Err(no_command());
        };
        let mut command = Command::new(program);
        command.args(arguments).current_dir(tree).env("PWD", tree);
        command
            .stdin(std::process::Stdio::null())
            .stdout(output)
            .stderr(errors);
        recorder.watch(&mut command, &records, &self.home);
        let progress = &self.request.progress;
        let status = progress.counted(stage.step(), &records, || self.wait(&mut command));
        let status = status.map_err(|source| BuildError::CommandNotFound {
            command: program.to_string_lossy().into_owned(),
            source,
        })?;
        if !status.success() {
            let output = last_lines(&fs::read(&log).unwrap_or_default(), 25);
            return Err(BuildError::BuildFailed {
                stage,
                status,
                output,
            });
        }
        self.records(stage)
    }

    /// Runs a command to its end.
    fn wait(&self, command: &mut Command) -> std::io::Result<ExitStatus> {
        let mut child = self.directory.spawn(command)?;
        let status = child.wait();
        self.directory.ended();
        status
    }

    fn records(&self, stage: Stage) -> Result<Vec<Record>, BuildError> {
        let records = self.records_directory(stage);
        read_records(&records).map_err(io("read", &records))
    }

    fn records_directory(&self, stage: Stage) -> PathBuf {
        self.work.join(format!("{stage}-records"))
    }
}

fn read_binaries(paths: &[PathBuf]) -> Result<Vec<Binary>, BuildError> {
    if paths.is_empty() {
        let what = "no binary is given".to_owned();
        return Err(BuildError::Request {
            what,
            hint: "name the program or library with --binary",
        });
    }
    let mut binaries: Vec<Binary> = Vec::new();
    for path in paths {
        let binary = Binary::read(path)?;
        if let Some(other) = binaries
            .iter()
            .find(|other| other.build_id == binary.build_id)
        {
            let (first, second) = (other.path.clone(), path.clone());
            let build_id = binary.build_id;
            return Err(BinaryError::Duplicate {
                first,
                second,
                build_id,
            }
            .into());
        }
        binaries.push(binary);
    }
    Ok(binaries)
}

/// The given name, or the fix's file name with what a name may not hold replaced.
fn patch_name(request: &BuildRequest) -> Result<String, BuildError> {
    if request.command.is_empty() {
        return Err(no_command());
    }
    let stem = request
        .fix
        .file_stem()
        .map(OsStr::to_string_lossy)
        .unwrap_or_default();
    let allowed = |c: char| {
        if c.is_ascii_alphanumeric() || "._-".contains(c) {
            c
        } else {
            '-'
        }
    };
    let made = || {
        stem.chars()
            .map(allowed)
            .take(engraft_patch::check::MAXIMUM_NAME)
            .collect()
    };
    let name = request.name.clone().unwrap_or_else(made);
    if !engraft_patch::check::is_patch_name(&name) {
        let what = format!("{name:?} cannot be a patch's name");
        return Err(BuildError::Request {
            what,
            hint: "1 to 63 characters of [A-Za-z0-9._-]",
        });
    }
    Ok(name)
}

fn concessions(unplaced: &[Unplaced], accepted_layouts: Vec<String>) -> Concessions {
    let missing = |file: &Unplaced| -> Vec<Missing> {
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
        missing: unplaced.iter().flat_map(missing).collect(),
        accepted_layouts,
    }
}

fn no_command() -> BuildError {
    let what = "no build command is given".to_owned();
    BuildError::Request {
        what,
        hint: "put it behind --, for example: -- make",
    }
}

fn io<'p>(action: &'static str, path: &'p Path) -> impl Fn(std::io::Error) -> BuildError + 'p {
    move |source| BuildError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}
