//! Victims: small C programs, compiled by the test, that say on their standard output what they
//! see.
//!
//! A victim prints `ready` when it is in the state that the test wants, and answers a line on its
//! standard input with a line. Nothing here depends on timing: each wait is for a line or
//! for the kernel to say that a thread sleeps in a certain system call.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test file uses another part of this"
)]
#![allow(
    clippy::allow_attributes,
    reason = "expect would fail where everything is used"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails so"
)]

pub mod scene;
pub mod steps;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use engraft_process::{Activity, Process, StoppedProcess};

/// Long enough for anything on a busy machine; reaching it is a failure.
pub const LONG: Duration = Duration::from_secs(20);

pub struct Victim {
    pub child: Child,
    pub pid: i32,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

pub fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/victims")
        .join(name)
}

/// Compiles a victim; once for each name, by each test program.
pub fn compile(source_name: &str, output: &str, flags: &[&str]) -> PathBuf {
    static DONE: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut done = DONE.lock().unwrap_or_else(|poison| poison.into_inner());
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(output);
    if done.contains(output) {
        return path;
    }
    // Another test program may run the old one: it is replaced, never overwritten.
    let fresh = path.with_extension(format!("{}.new", std::process::id()));
    let status = Command::new("gcc")
        .args(["-O1", "-g", "-Wall", "-Werror", "-pthread", "-o"])
        .arg(&fresh)
        .arg(source(source_name))
        .args(flags)
        .status()
        .expect("gcc is installed");
    assert!(status.success(), "gcc could not compile {source_name}");
    std::fs::rename(&fresh, &path).unwrap();
    done.insert(output.to_owned());
    path
}

impl Victim {
    /// Starts a victim and waits until it is ready.
    pub fn start(program: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments);
        Self::start_command(command)
    }

    pub fn start_command(mut command: Command) -> Self {
        // A group of its own: whatever it starts can be ended with it.
        command.process_group(0);
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.unwrap();
        let mut victim = Self {
            pid: child.id().try_into().unwrap(),
            input: child.stdin.take(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
        };
        assert_eq!(victim.line(), "ready");
        victim
    }

    pub fn process(&self) -> Process {
        Process::open(self.pid).unwrap()
    }

    pub fn stop(&self) -> StoppedProcess {
        self.process().stop(LONG).unwrap()
    }

    /// The next line it prints.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub fn tell(&mut self, text: &str) {
        let input = self.input.as_mut().unwrap();
        writeln!(input, "{text}").unwrap();
        input.flush().unwrap();
    }

    /// Says something and returns the answer.
    pub fn ask(&mut self, text: &str) -> String {
        self.tell(text);
        self.line()
    }

    /// Waits until a thread sleeps in this system call, or in the continuation of it.
    pub fn await_sleep(&self, tid: i32, call: i64) {
        let process = self.process();
        let wanted = [call as u64, libc::SYS_restart_syscall as u64];
        loop {
            match process.task(tid).activity().unwrap() {
                Some(Activity::InSystemCall { number, .. }) if wanted.contains(&number) => return,
                Some(_) => std::thread::yield_now(),
                None => panic!("thread {tid} has ended"),
            }
        }
    }

    /// The value of a field of /proc/PID/status.
    pub fn status(&self, field: &str) -> String {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = text.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_once(':').unwrap().1.trim().to_owned()
    }

    /// Ends it, and makes sure that nothing of us is left on it: no tracer before, no zombie after.
    pub fn finish(mut self) {
        assert_eq!(self.status("TracerPid"), "0");
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        assert!(!Path::new(&format!("/proc/{}", self.pid)).exists());
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let group = rustix::process::Pid::from_raw(self.pid).unwrap();
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.child.wait();
    }
}
