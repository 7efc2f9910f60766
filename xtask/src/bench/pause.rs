//! How long a busy thread is stopped while a patch is applied, how late a thread with a timer
//! wakes, and how long the commands take.
//!
//! The program itself measures (`bench/pause/pause.c`). It measures again for the same time while
//! no command runs, and that is subtracted: it is what the machine does by itself.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};
use engraft_testkit::{Engraft, Outcome, Program, TIME_LIMIT, exit, run};

use super::report::{Row, Section};
use super::scene::{Scene, figure, in_each, milliseconds};
use super::statistics::Sample;

/// Numbers of threads: one busy thread, and sleepers. The thread with the timer is not counted.
pub(super) const THREADS: [usize; 4] = [1, 10, 100, 500];

/// The goals at these numbers of threads, in ms.
pub(super) const PAUSES_TO_REACH: [f64; 4] = [0.2, 0.2, 0.3, 0.5];
pub(super) const DELAYS_TO_REACH: [f64; 4] = [0.3, 0.5, 3.0, 12.0];
/// The later goals, for any number of threads.
pub(super) const PAUSE_LATER: f64 = 0.1;
pub(super) const DELAY_LATER: f64 = 0.2;
/// The goals for the first apply, in ms; the numbers of threads in between have none.
const COMMANDS_TO_REACH: [Option<f64>; 4] = [Some(10.0), None, None, Some(30.0)];

/// What is done while the threads measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    FirstApply,
    SecondApply,
    Disable,
}

impl Deed {
    pub(super) const ALL: [Self; 3] = [Self::FirstApply, Self::SecondApply, Self::Disable];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::FirstApply => "first apply",
            Self::SecondApply => "second apply",
            Self::Disable => "disable",
        }
    }
}

/// The figures of one process, in ms.
#[derive(Debug, Clone, Copy)]
struct Figures {
    /// For each of [`Deed::ALL`].
    deeds: [Figure; 3],
    /// The extra delay of the timer's thread while a program that does nothing is run.
    delay_at_nothing: f64,
}

#[derive(Debug, Clone, Copy)]
struct Figure {
    /// The delay beyond that of a quiet time.
    seen: Seen,
    /// The extra delay of the timer's thread while the same is done to another process.
    delay_at_other: f64,
    /// From the start of the command to its end.
    command: f64,
}

/// In one window of time, in ms.
#[derive(Debug, Clone, Copy)]
struct Seen {
    pause: f64,
    delay: f64,
    /// Without the time that the timer's thread was ready to run and had no CPU.
    net_delay: f64,
}

impl Seen {
    /// The difference from a quiet time.
    fn beyond(self, idle: Self) -> Self {
        let beyond = |seen: f64, idle: f64| (seen - idle).max(0.0);
        Self {
            pause: beyond(self.pause, idle.pause),
            delay: beyond(self.delay, idle.delay),
            net_delay: beyond(self.net_delay, idle.net_delay),
        }
    }
}

/// All that was measured: for each of [`THREADS`], what each process showed.
pub(super) struct Pauses(Vec<Vec<Figures>>);

impl Pauses {
    /// Pauses at a deed, by number of threads.
    pub(super) fn pauses(&self, deed: Deed) -> Vec<Option<Sample>> {
        self.samples(deed, |figure| figure.seen.pause)
    }

    /// Delays of the timer's thread, likewise.
    pub(super) fn delays(&self, deed: Deed) -> Vec<Option<Sample>> {
        self.samples(deed, |figure| figure.seen.delay)
    }

    fn samples(&self, deed: Deed, which: impl Fn(Figure) -> f64) -> Vec<Option<Sample>> {
        self.samples_of(|figures| which(figures.deeds[deed as usize]))
    }

    fn samples_of(&self, which: impl Fn(&Figures) -> f64) -> Vec<Option<Sample>> {
        let samples = self.0.iter();
        samples
            .map(|processes| Sample::new(processes.iter().map(&which)))
            .collect()
    }

    pub(super) fn sections(&self) -> Vec<Section> {
        let rows = |which: fn(Figure) -> f64, reach: &dyn Fn(usize) -> Option<String>| {
            let deeds = Deed::ALL.into_iter().flat_map(|deed| {
                let samples = self.samples(deed, which).into_iter().enumerate();
                let rows = samples.map(move |(index, sample)| Row {
                    what: format!("{}, {}", deed.name(), threads(THREADS[index])),
                    unit: "ms",
                    sample,
                    reach: reach(index).filter(|_| deed != Deed::Disable),
                });
                rows.collect::<Vec<_>>()
            });
            deeds.collect()
        };
        vec![
            Section {
                title: "Pause of a busy thread",
                meaning: PAUSE_MEANING,
                rows: rows(|figure| figure.seen.pause, &|index| {
                    Some(reach(PAUSES_TO_REACH[index], PAUSE_LATER))
                }),
            },
            Section {
                title: "Delay of a thread with a 1 ms timer",
                meaning: DELAY_MEANING,
                rows: rows(|figure| figure.seen.delay, &|index| {
                    Some(reach(DELAYS_TO_REACH[index], DELAY_LATER))
                }),
            },
            Section {
                title: "The same delay while the same is done to another process, or nothing",
                meaning: OTHER_MEANING,
                rows: {
                    let mut rows: Vec<Row> = rows(|figure| figure.delay_at_other, &|_| None);
                    let nothing = self.samples_of(|figures| figures.delay_at_nothing);
                    rows.extend(nothing.into_iter().enumerate().map(|(index, sample)| Row {
                        what: format!("`true`, {}", threads(THREADS[index])),
                        unit: "ms",
                        sample,
                        reach: None,
                    }));
                    rows
                },
            },
            Section {
                title: "The same delay without waiting for a CPU",
                meaning: NET_DELAY_MEANING,
                rows: rows(|figure| figure.seen.net_delay, &|_| None),
            },
            Section {
                title: "What the command takes",
                meaning: COMMAND_MEANING,
                rows: rows(|figure| figure.command, &|index| {
                    COMMANDS_TO_REACH[index].map(|limit| format!("under {limit}"))
                })
                .into_iter()
                // Only the first apply has a goal.
                .enumerate()
                .map(|(index, row): (usize, Row)| match index < THREADS.len() {
                    true => row,
                    false => Row { reach: None, ..row },
                })
                .collect(),
            },
        ]
    }
}

const PAUSE_MEANING: &str = "\
One thread calls a function and reads the clock over and over; the others sleep in a system call. The pause is the
longest time between two readings while the command runs, without the time in it that the thread was ready to run
and had no CPU, and less the longest such time with nothing happening for as long. *First apply* brings the
agent in; *second apply* is that of another patch of the same function, with the agent there; *disable* takes
that one back.";

const DELAY_MEANING: &str = "\
In the same runs, one more thread sleeps until each next millisecond (`clock_nanosleep`, absolute). The delay is how
late it wakes at worst while the command runs, less how late it wakes at worst with nothing happening. Where the
command, the busy thread and this one are more than there are CPUs, part of it is the scheduler's: it lets a thread
that wakes wait until the turn of the one that runs is over, some milliseconds.";

const OTHER_MEANING: &str = "\
How late the thread wakes at worst while the same command does the same to another process of the same kind, which
takes as much CPU time and has nothing to do with this process; and while `true` is run, a program that does nothing.
Less how late it wakes at worst with nothing happening. What the table above has beyond this is what is done to the
process.";

const NET_DELAY_MEANING: &str = "\
The delay, without the time that the thread was ready to run and had no CPU, and less the same figure with nothing
happening.";

const COMMAND_MEANING: &str = "\
Wall time of the `engraft` command in the same runs, from the start of its process to its end.";

fn threads(count: usize) -> String {
    match count {
        1 => "1 thread".to_owned(),
        _ => format!("{count} threads"),
    }
}

fn reach(limit: f64, later: f64) -> String {
    format!("under {limit}, later {later}")
}

/// Measures with all numbers of threads.
pub(super) fn measure(engraft: &Engraft, processes: usize) -> Result<Pauses> {
    let scene = Scene::new(engraft, "pause")?;
    let first = scene.patch("fix.patch", "bench-first")?;
    let second = scene.patch("second.patch", "bench-second")?;
    let all = THREADS.into_iter().map(|count| {
        let what = format!("pause with {}", threads(count));
        in_each(&what, processes, || one(&scene, [&first, &second], count))
    });
    Ok(Pauses(all.collect::<Result<_>>()?))
}

fn one(scene: &Scene<'_>, [first, second]: [&Path; 2], threads: usize) -> Result<Figures> {
    let sleepers = (threads - 1).to_string();
    let mut program = scene.start(&[&sleepers])?;
    // A process of the same kind that does not measure.
    let twin = scene.start(&[&sleepers])?;
    let engraft = scene.engraft;
    let deed = |deed: Deed, pid: u32| match deed {
        Deed::FirstApply => engraft.apply(first, pid),
        Deed::SecondApply => engraft.apply(second, pid),
        Deed::Disable => engraft.disable("bench-second", pid),
    };
    let pid = program.pid();
    let mut seen = Vec::new();
    for (what, version) in Deed::ALL.into_iter().zip(["2", "3", "2"]) {
        let (during, took) = window(&mut program, || deed(what, pid))?;
        program.expect("version", version)?;
        seen.push((what, during, took));
    }
    let mut deeds = Vec::new();
    for (what, during, took) in seen {
        let idle = idle(&mut program, took)?;
        let (other, _) = window(&mut program, || deed(what, twin.pid()))?;
        deeds.push(Figure {
            seen: during.beyond(idle),
            delay_at_other: other.beyond(idle).delay,
            command: milliseconds(took),
        });
    }
    let (nothing, took) = window(&mut program, || run(&mut Command::new("true"), TIME_LIMIT))?;
    let idle = idle(&mut program, took)?;
    program.finish()?;
    twin.finish()?;
    let deeds = <[Figure; 3]>::try_from(deeds);
    Ok(Figures {
        deeds: deeds.map_err(|_| anyhow!("not as many figures as deeds"))?,
        delay_at_nothing: nothing.beyond(idle).delay,
    })
}

/// What the threads measure while no command runs.
fn idle(program: &mut Program, time: Duration) -> Result<Seen> {
    // This sleep is the window that is measured; it waits for no event.
    let (seen, ()) = watch(program, || {
        thread::sleep(time);
        Ok(())
    })?;
    Ok(seen)
}

/// What the threads measure while the command runs, and how long it ran.
fn window(
    program: &mut Program,
    command: impl FnOnce() -> Result<Outcome>,
) -> Result<(Seen, Duration)> {
    let (seen, outcome) = watch(program, || command()?.exits(exit::OK))?;
    Ok((seen, outcome.took))
}

/// What the threads measure while `happens` runs.
fn watch<T>(program: &mut Program, happens: impl FnOnce() -> Result<T>) -> Result<(Seen, T)> {
    program.expect("window", "measuring")?;
    let what = happens()?;
    Ok((end_of_window(program)?, what))
}

fn end_of_window(program: &mut Program) -> Result<Seen> {
    let answer = program.ask("end")?;
    let in_ms = |name| figure(&answer, name).map(|ns| ns / 1e6);
    Ok(Seen {
        pause: in_ms("longest_ns")?,
        delay: in_ms("late_ns")?,
        net_delay: in_ms("late_net_ns")?,
    })
}
