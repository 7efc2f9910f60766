//! A command with its time and its memory.
#![expect(
    unsafe_code,
    reason = "the memory of a child is known only to the wait that the standard library does not offer"
)]

use std::io::Read;
use std::mem::MaybeUninit;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// How much memory a command may use, in KiB.
const MEMORY: i64 = 200 << 10;

/// What a command that has ended left behind.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) line: String,
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
    /// The most that it used, in KiB.
    pub(crate) memory: i64,
}

/// Runs a command, which must end within `limit`, by itself and without a panic, use little memory,
/// and show nothing that a terminal takes for more than text.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Result<Measured> {
    let line = format!("{command:?}");
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("failed to start {line}"))?;
    let streams = [drain(child.stdout.take()), drain(child.stderr.take())];
    let mut texts = Vec::new();
    for stream in streams {
        let Ok(text) = stream.recv_timeout(limit.saturating_sub(start.elapsed())) else {
            let stack = std::fs::read_to_string(format!("/proc/{}/stack", child.id()));
            child.kill()?;
            child.wait()?;
            bail!("{line} did not end within {limit:?}; in the kernel: {stack:?}");
        };
        texts.push(text);
    }
    let took = start.elapsed();
    let (status, memory) = wait(&child)?;
    let [stdout, stderr] = [texts.remove(0), texts.remove(0)].map(String::from_utf8);
    let measured = Measured {
        code: libc::WEXITSTATUS(status),
        stdout: stdout.context("stdout is no UTF-8")?,
        stderr: stderr.context("stderr is no UTF-8")?,
        line,
        took,
        memory,
    };
    ensure!(libc::WIFEXITED(status), "a signal ended {measured}");
    let panicked = measured.code == 101 || measured.stderr.contains("panicked");
    ensure!(!panicked, "a panic in {measured}");
    ensure!(memory < MEMORY, "{memory} KiB of memory: {measured}");
    measured.shows_only_text()?;
    Ok(measured)
}

impl Measured {
    /// Whether it says this word, if there is one, of a process.
    pub(crate) fn says_of(&self, word: &str, pid: &str) -> bool {
        let end = format!("process {pid}");
        let mut lines = self.stdout.lines();
        word.is_empty() || lines.any(|line| line.contains(word) && line.contains(&end))
    }

    fn shows_only_text(&self) -> Result<()> {
        let raw = |c: &char| {
            (c.is_control() && *c != '\n')
                || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        };
        for text in [&self.stdout, &self.stderr] {
            let found = text.chars().find(raw);
            ensure!(found.is_none(), "{found:?} raw in {self}");
        }
        Ok(())
    }
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            line,
            code,
            stdout,
            stderr,
            took,
            memory,
        } = self;
        writeln!(f, "{line}: code {code}, {took:?}, {memory} KiB")?;
        let start = |text: &str| text.chars().take(3000).collect::<String>();
        write!(
            f,
            "-- stdout\n{}-- stderr\n{}",
            start(stdout),
            start(stderr)
        )
    }
}

/// Its status, and the most memory that it used in KiB.
fn wait(child: &Child) -> Result<(i32, i64)> {
    let pid = i32::try_from(child.id())?;
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are to our own variables, and nobody else waits for this child.
    let waited = unsafe { libc::wait4(pid, &mut status, 0, usage.as_mut_ptr()) };
    ensure!(waited == pid, "{}", std::io::Error::last_os_error());
    // SAFETY: all zeros is a valid rusage, and wait4 has filled it.
    let usage = unsafe { usage.assume_init() };
    Ok((status, usage.ru_maxrss))
}

/// Reads a stream to its end on a thread of its own, so that the other stream cannot block it.
fn drain(stream: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            stream.read_to_end(&mut bytes).ok();
        }
        // Nobody listens any more if the time limit has passed.
        sender.send(bytes).ok();
    });
    receiver
}
