//! One program under load, and what two patches take to switch all of its threads.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use engraft_testkit::{Engraft, exit, run};

use super::super::report::Row;
use super::super::scene::milliseconds;
use super::clients::{Answers, Question, crowd, wait_for_more};
use super::server::Server;
use super::workshop::Patch;

/// What each command gets, in seconds.
const PATIENCE: &str = "10";
/// Far more than a command may take.
const LIMIT: Duration = Duration::from_secs(120);
/// How many clients ask at the same time.
pub(super) const CLIENTS: usize = 16;
/// Requests that are answered before the first patch, so that no thread is still starting.
const WARM_UP: u64 = 2000;
/// What the issue that asked for this wants, in milliseconds.
const REACH: &str = "under 2000";

/// A program that is measured.
pub(super) struct Case {
    pub(super) name: String,
    /// The first is for a function that its threads are nearly always inside of.
    pub(super) patches: [Patch; 2],
    pub(super) start: Box<dyn Fn() -> Result<Server>>,
    /// What clients ask. `None` if it is no server.
    pub(super) question: Option<Question>,
}

/// What came of one process. Times are in milliseconds, and `None` for a command that failed.
pub(super) struct Outcome {
    apply: [Option<f64>; 2],
    disable: Option<f64>,
    enable_both: Option<f64>,
    answers: Answers,
}

impl Case {
    /// Measures in a fresh process.
    pub(super) fn measure(&self, engraft: &Engraft) -> Result<Outcome> {
        let server = (self.start)()?;
        let crowd = match (&self.question, server.address) {
            (Some(question), Some(address)) => Some(crowd(address, CLIENTS, question)?),
            _ => None,
        };
        if let Some(crowd) = &crowd {
            wait_for_more(crowd, WARM_UP)?;
            crowd.take();
        }
        let give = |command: &str, what: &str| {
            let mut line = engraft.command([command, what, "--timeout", PATIENCE]);
            for pid in server.pids()? {
                line.args(["--pid", &pid.to_string()]);
            }
            timed(&mut line)
        };
        let [first, second] = &self.patches;
        let apply = |patch: &Patch| give("apply", &patch.file.to_string_lossy());
        let apply = [apply(first)?, apply(second)?];
        let disable = [give("disable", second.name)?, give("disable", first.name)?];
        let enable_both = at_once([first, second].map(|patch| || give("enable", patch.name)))?;
        let answers = crowd.as_ref().map(|crowd| crowd.take()).unwrap_or_default();
        if let Some(crowd) = crowd {
            crowd.stop()?;
        }
        Ok(Outcome {
            apply,
            disable: sum(disable),
            enable_both,
            answers,
        })
    }

    /// The rows of all its processes.
    pub(super) fn rows(&self, outcomes: &[Outcome]) -> Vec<Row> {
        let name = &self.name;
        let [first, second] = [0, 1].map(|index| self.patches[index].function);
        let times = |what: String, time: fn(&Outcome) -> Option<f64>| {
            Row::new(
                format!("{name}: {what}"),
                "ms",
                outcomes.iter().filter_map(time),
            )
        };
        let share = Row::new(
            format!("{name}: commands that succeeded"),
            "%",
            outcomes.iter().map(Outcome::success),
        );
        let mut rows = vec![
            times(format!("patch of {first}"), |outcome| outcome.apply[0]).reaching(REACH),
            times(format!("then one of {second}"), |outcome| outcome.apply[1]).reaching(REACH),
            times("both disabled".to_owned(), |outcome| outcome.disable),
            times("both enabled at once".to_owned(), |outcome| {
                outcome.enable_both
            })
            .reaching(REACH),
            share.reaching("100"),
        ];
        if self.question.is_some() {
            rows.extend(self.rows_of_answers(outcomes));
        }
        rows
    }

    fn rows_of_answers(&self, outcomes: &[Outcome]) -> [Row; 3] {
        let row = |what, unit, figure: fn(&Answers) -> f64| {
            let figures = outcomes.iter().map(|outcome| figure(&outcome.answers));
            Row::new(format!("{}: {what}", self.name), unit, figures)
        };
        #[expect(clippy::cast_precision_loss, reason = "far fewer requests than 2^53")]
        [
            row("requests that failed meanwhile", "", |answers| {
                answers.failed as f64
            })
            .reaching("0"),
            row("requests answered meanwhile", "", |answers| {
                answers.right as f64
            }),
            row("longest wait for an answer", "ms", |answers| {
                milliseconds(answers.longest)
            }),
        ]
    }
}

impl Outcome {
    /// Of its four steps, how many per cent succeeded.
    fn success(&self) -> f64 {
        let steps = [self.apply[0], self.apply[1], self.disable, self.enable_both];
        let succeeded = steps.iter().flatten().count();
        100.0 * f64::from(u8::try_from(succeeded).unwrap_or_default()) / 4.0
    }
}

/// How long a command took. A failure is shown.
fn timed(command: &mut Command) -> Result<Option<f64>> {
    let outcome = run(command, LIMIT)?;
    if outcome.code != Some(exit::OK) {
        eprintln!("{outcome}");
        return Ok(None);
    }
    Ok(Some(milliseconds(outcome.took)))
}

/// How long it takes until both commands, begun at the same time, have ended.
fn at_once<F>(commands: [F; 2]) -> Result<Option<f64>>
where
    F: FnOnce() -> Result<Option<f64>> + Send,
{
    let started = Instant::now();
    let results = thread::scope(|scope| {
        let threads = commands.map(|command| scope.spawn(command));
        threads.map(|thread| {
            thread
                .join()
                .map_err(|_| anyhow!("a command's thread died"))
        })
    });
    let took = milliseconds(started.elapsed());
    let [first, second] = results;
    Ok(first??.and(second??).map(|_| took))
}

/// `None` if one is missing.
fn sum(times: [Option<f64>; 2]) -> Option<f64> {
    let [first, second] = times;
    Some(first? + second?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_is_no_time() {
        assert_eq!(sum([Some(1.0), Some(2.0)]), Some(3.0));
        assert_eq!(sum([Some(1.0), None]), None);
        let took = at_once([Some(1.0), None].map(|time| move || Ok(time)));
        assert_eq!(took.unwrap(), None);
    }

    #[test]
    fn success_counts_every_step() {
        let outcome = Outcome {
            apply: [Some(1.0), None],
            disable: Some(1.0),
            enable_both: Some(1.0),
            answers: Answers::default(),
        };
        assert_eq!(outcome.success(), 75.0);
    }
}
