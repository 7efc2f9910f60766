//! The progress of `engraft build` on stderr: one line that changes on a terminal, a line for each
//! step elsewhere.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use engraft_build::{Event, Progress};

/// How often a step that takes long is mentioned where lines cannot be changed.
const INTERVAL: Duration = Duration::from_secs(10);

/// Makes a [`Progress`] that writes to stderr.
pub(super) fn progress() -> Progress {
    let is_terminal = std::io::stderr().is_terminal();
    let last = Mutex::new((Instant::now(), 0));
    Progress::new(move |event| {
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        let (mentioned, compiles) = &mut *last;
        let text = match event {
            Event::Begins(step) => {
                *mentioned = Instant::now();
                *compiles = 0;
                is_terminal.then(|| format!("\r\x1b[K{step} ..."))
            }
            Event::Running(step, count) => {
                *compiles = *count;
                let is_due = is_terminal || mentioned.elapsed() >= INTERVAL;
                let (start, end) = if is_terminal {
                    ("\r\x1b[K", "")
                } else {
                    ("", "\n")
                };
                is_due.then(|| {
                    *mentioned = Instant::now();
                    format!("{start}{step} ... {count} compiles{end}")
                })
            }
            Event::Kept(path) => Some(format!("note: the build is in {}\n", path.display())),
            Event::Ended(step, took) => {
                let start = if is_terminal { "\r\x1b[K" } else { "" };
                let compiles = match *compiles {
                    0 => String::new(),
                    count => format!(", {count} compiles"),
                };
                Some(format!(
                    "{start}{step}: {:.1} s{compiles}\n",
                    took.as_secs_f64()
                ))
            }
        };
        if let Some(text) = text {
            // The reader may have closed the pipe.
            let _ = std::io::stderr().write_all(text.as_bytes());
        }
    })
}
