//! Runs a command to its end, within a time limit.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// How a command ended, and what it wrote.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The command line, for messages.
    pub command: String,
    /// The exit code; `None` if a signal ended the command.
    pub code: Option<i32>,
    /// Its data.
    pub stdout: String,
    /// Its diagnostics.
    pub stderr: String,
    /// Wall-clock time from start to end.
    pub took: Duration,
}

impl Outcome {
    /// Fails, and shows everything, unless the command ended with this exit code.
    pub fn exits(self, code: i32) -> Result<Self> {
        ensure!(
            self.code == Some(code),
            "expected exit code {code} from {self}"
        );
        Ok(self)
    }

    /// Fails, and shows everything, unless each text appears in the output (either stream).
    pub fn says(self, texts: &[&str]) -> Result<Self> {
        for text in texts {
            let said = self.stdout.contains(text) || self.stderr.contains(text);
            ensure!(said, "expected the words {text:?} from {self}");
        }
        Ok(self)
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            command,
            stdout,
            stderr,
            ..
        } = self;
        writeln!(f, "`{command}`, which ended with {:?}", self.code)?;
        write!(f, "-- stdout\n{stdout}-- stderr\n{stderr}")
    }
}

/// Runs `command` with nothing on its stdin and waits for its end; kills it when `limit` has
/// passed.
pub fn run(command: &mut Command, limit: Duration) -> Result<Outcome> {
    let line = format!("{command:?}");
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("failed to start {line}"))?;
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    // Both streams end when the command does.
    let mut texts = [String::new(), String::new()];
    for (text, stream) in texts.iter_mut().zip([stdout, stderr]) {
        let left = limit.saturating_sub(start.elapsed());
        let Ok(bytes) = stream.recv_timeout(left) else {
            child.kill().ok();
            child.wait().ok();
            bail!("{line} did not end within {limit:?}");
        };
        *text = String::from_utf8_lossy(&bytes?).into_owned();
    }
    let status = child.wait()?;
    let [stdout, stderr] = texts;
    Ok(Outcome {
        command: line,
        code: status.code(),
        stdout,
        stderr,
        took: start.elapsed(),
    })
}

/// Reads a stream to its end on a thread of its own, so that the other stream cannot block it.
fn drain(stream: Option<impl Read + Send + 'static>) -> mpsc::Receiver<std::io::Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let result = stream.map_or(Ok(0), |mut stream| stream.read_to_end(&mut bytes));
        // Nobody listens any more if the time limit has passed.
        sender.send(result.map(|_| bytes)).ok();
    });
    receiver
}
