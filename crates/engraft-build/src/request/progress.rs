//! Telling the user what is being done, while it is done.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Interval between two counts of a running build's compiles.
const INTERVAL: Duration = Duration::from_millis(500);

/// A part of the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The source is copied.
    Copy,
    /// The build command runs on the original source.
    Original,
    /// The build command runs on the fixed source.
    Fixed,
    /// The build command makes objects again that were there before.
    Prebuilt,
    /// The compiler is asked what each compile reads.
    Dependencies,
    /// What may have changed is compiled twice and compared.
    Compare,
    /// The patch is put together.
    Assemble,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Copy => "copying the source",
            Self::Original => "building the original source",
            Self::Fixed => "building the fixed source",
            Self::Prebuilt => "building objects again that were there before",
            Self::Dependencies => "asking the compiler what it reads",
            Self::Compare => "compiling and comparing what the fix may change",
            Self::Assemble => "looking for it in the binaries",
        })
    }
}

/// What is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A step begins.
    Begins(Step),
    /// The build command is at work: so many compiles so far.
    Running(Step, usize),
    /// A step has ended.
    Ended(Step, Duration),
    /// The directory of the build was left here.
    Kept(PathBuf),
}

type Tell = dyn Fn(&Event) + Send + Sync;

/// Where events are told.
#[derive(Clone, Default)]
pub struct Progress(Option<Arc<Tell>>);

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Progress").field(&self.0.is_some()).finish()
    }
}

impl Progress {
    /// Calls `tell` for every event, on any thread.
    pub fn new(tell: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }

    pub(crate) fn tell(&self, event: &Event) {
        if let Some(tell) = &self.0 {
            tell(event);
        }
    }

    /// Does a step.
    pub(crate) fn step<R>(&self, step: Step, work: impl FnOnce() -> R) -> R {
        let started = Instant::now();
        self.tell(&Event::Begins(step));
        let result = work();
        self.tell(&Event::Ended(step, started.elapsed()));
        result
    }

    /// Does a step that makes files in a directory, and tells how many there are.
    pub(crate) fn counted<R>(&self, step: Step, directory: &Path, work: impl FnOnce() -> R) -> R {
        let (done, wait) = channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut last = 0;
                while wait.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                    let count = records(directory);
                    if count != last {
                        self.tell(&Event::Running(step, count));
                        last = count;
                    }
                }
            });
            let result = self.step(step, || {
                let result = work();
                self.tell(&Event::Running(step, records(directory)));
                result
            });
            drop(done);
            result
        })
    }
}

fn records(directory: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return 0;
    };
    let names = entries
        .flatten()
        .map(|entry| PathBuf::from(entry.file_name()));
    names
        .filter(|name| name.extension().is_some_and(|e| e == "json"))
        .count()
}
