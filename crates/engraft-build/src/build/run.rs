//! Running the user's build command.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use super::build_run::BuildRun;
use super::inputs::no_command;
use crate::compile::last_lines;
use crate::record::{Record, Recorder, read_records};
use crate::request::{BuildError, Stage};

impl BuildRun<'_> {
    /// Runs the build command and returns the compiles it made.
    pub(super) fn run(
        &self,
        recorder: &Recorder,
        tree: &Path,
        stage: Stage,
    ) -> Result<Vec<Record>, BuildError> {
        let records = self.records_directory(stage);
        fs::create_dir(&records).map_err(BuildError::io("create", &records))?;
        let log = match &self.request.log {
            Some(log) => log.clone(),
            None => self.work.join("build.log"),
        };
        let mut output = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(BuildError::io("open", &log))?;
        writeln!(output, "== {}", stage.step()).map_err(BuildError::io("write", &log))?;
        let errors = output.try_clone().map_err(BuildError::io("create", &log))?;
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

    pub(super) fn records(&self, stage: Stage) -> Result<Vec<Record>, BuildError> {
        let records = self.records_directory(stage);
        read_records(&records).map_err(BuildError::io("read", &records))
    }

    fn records_directory(&self, stage: Stage) -> PathBuf {
        self.work.join(format!("{stage}-records"))
    }
}
