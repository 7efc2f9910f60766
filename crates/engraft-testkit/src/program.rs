//! A running program that is spoken to in lines.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::TIME_LIMIT;

/// A running program: it gets lines on stdin and answers each with one line on stdout.
///
/// Dropping the value kills the program, so a test that fails leaves no process.
#[derive(Debug)]
pub struct Program {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Program {
    /// Starts `path` and waits for the line by which the program says that it is ready.
    pub fn start<A: AsRef<OsStr>>(path: &Path, arguments: &[A]) -> Result<(Self, String)> {
        let mut child = Command::new(path)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("failed to start {}", path.display()))?;
        let stdin = child.stdin.take();
        let stdout = child
            .stdout
            .take()
            .context("failed to take the program's stdout")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut program = Self {
            child,
            stdin,
            lines,
        };
        let ready = program
            .next_line()
            .context("the program did not say that it is ready")?;
        Ok((program, ready))
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How many threads the process has now.
    pub fn threads(&self) -> Result<usize> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid()));
        Ok(tasks
            .context("failed to list the program's threads")?
            .count())
    }

    /// Sends one line and returns the line that the program answers.
    pub fn ask(&mut self, line: &str) -> Result<String> {
        let stdin = self
            .stdin
            .as_mut()
            .context("the program's stdin is closed")?;
        let sent = writeln!(stdin, "{line}").and_then(|()| stdin.flush());
        sent.map_err(anyhow::Error::from)
            .and_then(|()| self.next_line())
            .with_context(|| format!("failed to get an answer to {line:?}"))
    }

    /// Fails unless the program answers `line` with `answer`.
    pub fn expect(&mut self, line: &str, answer: &str) -> Result<()> {
        let said = self.ask(line)?;
        ensure!(
            said == answer,
            "the program answered {line:?} with {said:?}, not {answer:?}"
        );
        Ok(())
    }

    /// Sends one line and fails unless the answer is one of `answers`.
    pub fn expect_one_of(&mut self, line: &str, answers: &[&str]) -> Result<()> {
        let said = self.ask(line)?;
        ensure!(
            answers.contains(&&*said),
            "the program answered {line:?} with {said:?}, none of {answers:?}"
        );
        Ok(())
    }

    /// Closes the program's stdin and waits for its normal end: exit code 0.
    pub fn finish(mut self) -> Result<()> {
        drop(self.stdin.take());
        loop {
            match self.lines.recv_timeout(TIME_LIMIT) {
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => bail!("the program did not end"),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let status = self.child.wait()?;
        ensure!(
            status.success(),
            "the program ended badly: {}",
            in_words(status)
        );
        Ok(())
    }

    /// Waits for the next line that the program says by itself.
    pub fn next_line(&mut self) -> Result<String> {
        self.lines
            .recv_timeout(TIME_LIMIT)
            .map_err(|error| match error {
                RecvTimeoutError::Timeout => anyhow!("no line within {TIME_LIMIT:?}"),
                // Its stdout is closed, so the program has ended or is about to.
                RecvTimeoutError::Disconnected => match self.child.wait() {
                    Ok(status) => anyhow!("the program has ended: {}", in_words(status)),
                    Err(error) => error.into(),
                },
            })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail only if the program has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}
