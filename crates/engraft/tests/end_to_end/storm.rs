//! Patches of five functions that call each other come and go in any order while eight threads run
//! chains of these calls: no thread sees two versions in one chain, and none sees a version that
//! nobody enabled.
//!
//! A thread may switch only where none of the five is on its stack, so a chain, which begins in a
//! loop that is not patched, is of one version from start to end. The program itself looks whether
//! it is; that it would see a chain that is not, `storm_control.rs` shows.
//!
//! `ENGRAFT_LONG_TESTS=1` makes the sixty rounds a thousand. The steps are drawn by lot from a seed
//! that is printed; `ENGRAFT_STORM_SEED` plays the same ones again.

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use engraft_testkit::{Engraft, Outcome, Program, Snapshot, Victim, exit};

use crate::{engraft, victim};

/// Whether a command that ends because a thread did not leave in time keeps the transition open,
/// with the other threads switched. Where this is false, both are accepted; where it is true, the
/// rounds that need an open transition fail without one.
const TRANSITIONS_STAY_OPEN: bool = true;

/// For commands that meet a thread that stays inside, however long that is.
const SHORT: &str = "1";
/// For all others: enough on a loaded machine.
const PATIENT: &str = "50";

/// Chains that the program counts in one round.
const CHAINS: usize = 80;

#[test]
fn no_thread_sees_two_versions_in_one_chain() -> Result<()> {
    let long = std::env::var_os("ENGRAFT_LONG_TESTS").is_some();
    let seed = match std::env::var("ENGRAFT_STORM_SEED") {
        Ok(seed) => seed.parse().context("ENGRAFT_STORM_SEED is no number")?,
        Err(_) => RandomState::new().hash_one(0),
    };
    println!("storm: ENGRAFT_STORM_SEED={seed}");
    let mut storm = Storm::new(Lots(seed))?;
    let before = Snapshot::take(storm.program.pid())?;
    let mut steps = Vec::new();
    for round in 0..if long { 1000 } else { 60 } {
        steps.push(storm.draw());
        storm.round(steps[round]).with_context(|| {
            let last = &steps[round.saturating_sub(9)..];
            format!("ENGRAFT_STORM_SEED={seed}, round {round}, with these last steps: {last:?}")
        })?;
    }
    storm.take_everything_back()?;
    before.expect_same_text()?;
    let counts = storm.program.ask("counts")?;
    println!("storm: {counts}, {:?}", storm.open);
    // Threads that are free do not wait for the one that is not.
    ensure!(
        storm.open.transitions == 0 || storm.open.new_chains > 0,
        "no thread switched in an open transition: {:?}",
        storm.open
    );
    storm.program.finish()
}

/// What a round does with one of the patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Also where it is disabled.
    Apply(usize),
    Enable(usize),
    Disable(usize),
    Remove(usize),
    /// Applies or disables it while a thread is inside, and takes that back with the thread still
    /// inside.
    Reverse(usize),
    /// The same, but then the thread leaves, and the command is given once more.
    Finish(usize),
}
use Step::{Apply, Disable, Enable, Finish, Remove, Reverse};

/// Where a patch is in its life, in the words of `engraft status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Absent,
    Disabled,
    Enabled,
}

struct Patch {
    name: &'static str,
    file: PathBuf,
    version: usize,
    state: State,
}

/// Transitions that stayed open, and chains of the version to come that ran in them.
#[derive(Debug, Default)]
struct Open {
    transitions: usize,
    new_chains: usize,
}

/// The program, and what it should be like.
struct Storm {
    engraft: Engraft,
    /// Holds the files.
    _victim: Victim,
    program: Program,
    patches: [Patch; 2],
    /// The patches that are enabled, oldest first.
    order: Vec<usize>,
    lots: Lots,
    open: Open,
}

impl Storm {
    fn new(lots: Lots) -> Result<Self> {
        let (engraft, victim) = (engraft(), victim("storm")?);
        let patch = |fix: &str, name, version| {
            anyhow::Ok(Patch {
                name,
                file: victim.patch(&engraft, fix, name, &["storm"])?,
                version,
                state: State::Absent,
            })
        };
        let patches = [
            patch("fix.patch", "two", 2)?,
            patch("second.patch", "three", 3)?,
        ];
        let program = victim.start("storm", &[])?;
        Ok(Self {
            engraft,
            _victim: victim,
            program,
            patches,
            order: Vec::new(),
            lots,
            open: Open::default(),
        })
    }

    /// A step that makes sense now.
    fn draw(&mut self) -> Step {
        let patch = self.lots.below(self.patches.len());
        let on_top = self.order.last() == Some(&patch);
        let choices: &[Step] = match self.patches[patch].state {
            State::Absent => &[Apply(patch), Apply(patch), Reverse(patch), Finish(patch)],
            State::Disabled => &[
                Apply(patch),
                Enable(patch),
                Enable(patch),
                Remove(patch),
                Remove(patch),
                Reverse(patch),
            ],
            // The thread inside keeps only the patch back that it runs.
            State::Enabled if on_top => &[
                Disable(patch),
                Disable(patch),
                Disable(patch),
                Reverse(patch),
                Finish(patch),
            ],
            State::Enabled => &[Disable(patch)],
        };
        choices[self.lots.below(choices.len())]
    }

    /// Does it, and looks at the program afterwards.
    fn round(&mut self, step: Step) -> Result<()> {
        let (Apply(patch) | Enable(patch) | Disable(patch) | Remove(patch) | Reverse(patch)
        | Finish(patch)) = step;
        let enabled = self.patches[patch].state == State::Enabled;
        let old = self.version();
        let mut order = self.order.clone();
        match step {
            Apply(_) | Enable(_) => order.push(patch),
            Disable(_) => order.retain(|&other| other != patch),
            Remove(_) => {}
            Reverse(_) | Finish(_) if enabled => order.retain(|&other| other != patch),
            Reverse(_) | Finish(_) => order.push(patch),
        }
        let new = self.version_of(&order);
        self.program.expect(&format!("allow {old} {new}"), "ok")?;
        match step {
            Apply(_) => self.patient("apply", patch)?.exits(exit::OK)?,
            Enable(_) => self.patient("enable", patch)?.exits(exit::OK)?,
            Disable(_) => self.patient("disable", patch)?.exits(exit::OK)?,
            Remove(_) => self.patient("remove", patch)?.exits(exit::OK)?,
            Reverse(_) => self.reverse(patch, new)?,
            Finish(_) => self.finish(patch, new)?,
        };
        if !matches!(step, Reverse(_)) {
            self.order = order;
        }
        self.settle(patch)
    }

    /// Gives the command that changes the patch while the ninth thread is inside: it cannot be done
    /// in time. Returns the command.
    fn begin(&mut self, patch: usize, new: usize) -> Result<&'static str> {
        self.program.expect("stay", "inside")?;
        let (command, in_transition) = match self.patches[patch].state {
            State::Absent => ("apply", "enabling"),
            // Both do the same.
            State::Disabled => (["apply", "enable"][self.lots.below(2)], "enabling"),
            State::Enabled => ("disable", "disabling"),
        };
        // It names a function that some thread must still leave; which of the five does not matter.
        self.command(command, patch, SHORT)?
            .exits(exit::TARGET_BUSY)?
            .says(&["function 'f"])?;
        let state = self.state_of(patch)?;
        let is_open = state.as_deref() == Some(in_transition);
        ensure!(
            is_open || !TRANSITIONS_STAY_OPEN,
            "the transition did not stay open: the patch is {state:?}"
        );
        let said = self.program.ask("round")?;
        let counts = Counts::read(&said)?;
        ensure!(counts.mixed == 0, "{said}");
        if is_open {
            self.open.transitions += 1;
            self.open.new_chains += counts.by_version[new - 1];
        } else {
            ensure!(counts.by_version[new - 1] == 0, "{said}");
        }
        Ok(command)
    }

    fn reverse(&mut self, patch: usize, new: usize) -> Result<Outcome> {
        let old = self.version();
        let command = self.begin(patch, new)?;
        let is_open = self.is_in_transition(patch)?;
        // Nobody has to leave anything: the thread inside never switched.
        let outcome = match command {
            "disable" => self.patient("enable", patch)?.exits(exit::OK)?,
            _ if is_open => self.patient("disable", patch)?.exits(exit::OK)?,
            // There was nothing to reverse, and there is nothing to disable.
            _ => self.patient("disable", patch)?.exits(exit::NO_SUCH_PATCH)?,
        };
        self.program.expect("round", &Counts::all(old))?;
        self.program.expect("leave", &old.to_string())?;
        Ok(outcome)
    }

    fn finish(&mut self, patch: usize, new: usize) -> Result<Outcome> {
        let old = self.version();
        let command = self.begin(patch, new)?;
        // The whole chain is of the version in which it began.
        self.program.expect("leave", &old.to_string())?;
        self.patient(command, patch)?.exits(exit::OK)
    }

    /// Nothing is in transition: looks whether all is as it should be.
    fn settle(&mut self, patch: usize) -> Result<()> {
        let state = match self.state_of(patch)?.as_deref() {
            None => State::Absent,
            Some("disabled") => State::Disabled,
            Some("enabled") => State::Enabled,
            Some(other) => anyhow::bail!("the patch is {other}"),
        };
        ensure!(
            (state == State::Enabled) == self.order.contains(&patch),
            "the patch is {state:?}"
        );
        // A patch whose enabling was reversed may be there or not.
        self.patches[patch].state = state;
        let names: Vec<&str> = self
            .order
            .iter()
            .map(|&patch| self.patches[patch].name)
            .collect();
        let patches = self.engraft.patches(self.program.pid())?;
        ensure!(patches == names, "enabled are {patches:?}, not {names:?}");
        let version = self.version();
        self.program.expect(&format!("allow {version}"), "ok")?;
        self.program.expect("round", &Counts::all(version))?;
        self.program.expect("violations", "mixed=0 stale=0")
    }

    fn take_everything_back(&mut self) -> Result<()> {
        for patch in 0..self.patches.len() {
            if self.patches[patch].state == State::Enabled {
                self.round(Disable(patch))?;
            }
            if self.patches[patch].state == State::Disabled {
                self.round(Remove(patch))?;
            }
        }
        Ok(())
    }

    /// The version that runs when no transition is open.
    fn version(&self) -> usize {
        self.version_of(&self.order)
    }

    fn version_of(&self, order: &[usize]) -> usize {
        order.last().map_or(1, |&patch| self.patches[patch].version)
    }

    fn patient(&self, command: &str, patch: usize) -> Result<Outcome> {
        self.command(command, patch, PATIENT)
    }

    fn command(&self, command: &str, patch: usize, timeout: &str) -> Result<Outcome> {
        let patch = &self.patches[patch];
        let what = match command {
            "apply" => patch.file.as_os_str(),
            _ => patch.name.as_ref(),
        };
        let pid = self.program.pid().to_string();
        let rest = ["--pid", &pid, "--timeout", timeout].map(AsRef::as_ref);
        let arguments = [command.as_ref(), what].into_iter().chain(rest);
        self.engraft.run(arguments)
    }

    /// As `engraft status` has it; nothing if it does not list the patch.
    fn state_of(&self, patch: usize) -> Result<Option<String>> {
        let status = self.engraft.status(self.program.pid())?;
        let patches = status["patches"].as_array().context("no patches")?;
        let name = self.patches[patch].name;
        let patch = patches.iter().find(|patch| patch["name"] == name);
        Ok(patch.and_then(|patch| patch["state"].as_str().map(str::to_owned)))
    }

    fn is_in_transition(&self, patch: usize) -> Result<bool> {
        let state = self.state_of(patch)?;
        Ok(matches!(state.as_deref(), Some("enabling" | "disabling")))
    }
}

/// The answer to `round`.
pub(crate) struct Counts {
    pub(crate) by_version: [usize; 3],
    pub(crate) mixed: usize,
}

impl Counts {
    pub(crate) fn read(answer: &str) -> Result<Self> {
        let counts: Option<Vec<usize>> = answer
            .split(' ')
            .map(|count| count.split_once('=')?.1.parse().ok())
            .collect();
        let counts = counts.and_then(|counts| <[usize; 4]>::try_from(counts).ok());
        let [one, two, three, mixed] =
            counts.with_context(|| format!("failed to read {answer:?}"))?;
        Ok(Self {
            by_version: [one, two, three],
            mixed,
        })
    }

    /// The answer if all chains are of one version.
    pub(crate) fn all(version: usize) -> String {
        let count = |other| if other == version { CHAINS } else { 0 };
        format!("1={} 2={} 3={} mixed=0", count(1), count(2), count(3))
    }
}

/// Lots drawn from a seed (splitmix64).
struct Lots(u64);

impl Lots {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut lot = self.0;
        lot = (lot ^ (lot >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        lot = (lot ^ (lot >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // The remainder's slight preference for small numbers does not matter here.
        ((lot ^ (lot >> 31)) % limit as u64) as usize
    }
}
