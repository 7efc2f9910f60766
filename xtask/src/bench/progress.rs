//! How long a transition takes in programs whose threads are rarely outside of the replaced
//! functions.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use engraft_testkit::{Engraft, exit, run};

use super::report::{Row, Section};
use super::scene::{Scene, ask, in_each, milliseconds};

const NAME: &str = "bench-progress";

/// The `--timeout` of the command, in seconds.
const PATIENCE: &str = "10";
/// The limit after which the command counts as hanging.
const LIMIT: Duration = Duration::from_secs(120);

/// One kind of program, with the goal for it.
struct Case {
    kind: &'static str,
    threads: u32,
    what: &'static str,
    reach: &'static str,
}

const fn case(kind: &'static str, threads: u32, what: &'static str, reach: &'static str) -> Case {
    Case {
        kind,
        threads,
        what,
        reach,
    }
}

const LOOP: &str = "asleep in a function in a loop, 300 ms a turn";
const TINY: &str = "busy in a tiny function";
const ELSEWHERE: &str = "computing elsewhere";
const INSIDE: &str = "computing inside, 50 ms a call";

const CASES: [Case; 11] = [
    case("asleep", 1, LOOP, "under 350"),
    case("asleep", 100, LOOP, "under 350"),
    case("tiny", 1, TINY, "under 2000"),
    case("tiny", 4, TINY, "under 2000"),
    case("tiny", 16, TINY, "under 2000"),
    case("tiny", 64, TINY, "under 2000"),
    case("elsewhere", 64, ELSEWHERE, "under 1000"),
    case("elsewhere", 256, ELSEWHERE, "under 3000"),
    case("inside", 2, INSIDE, "under 500"),
    case("inside", 8, INSIDE, "under 500"),
    case("inside", 64, INSIDE, "under 2000"),
];

/// Programs with a thread that never leaves, by how many threads compute next to it.
const STUCK: [u32; 3] = [0, 64, 256];

/// What a command gets where a thread never leaves, in seconds; it may take one more.
const SHORT: &str = "1";

/// The result of one apply.
struct Outcome {
    all_have_switched: bool,
    took: f64,
}

pub(super) fn measure(engraft: &Engraft, processes: usize) -> Result<Section> {
    let scene = Scene::new(engraft, "progress")?;
    let patch = scene.patch("fix.patch", NAME)?;
    let mut outcomes: Vec<Vec<Outcome>> = CASES.iter().map(|_| Vec::new()).collect();
    // The cases take turns, so that a change in the load of the machine affects all of them.
    let rounds = in_each("progress", processes, || {
        let cases = CASES.iter().map(|case| one(&scene, &patch, case));
        cases.collect::<Result<Vec<_>>>()
    })?;
    for round in rounds {
        let each = outcomes.iter_mut().zip(round);
        each.for_each(|(of_case, outcome)| of_case.push(outcome));
    }
    let rows = CASES.iter().zip(&outcomes);
    let mut rows: Vec<Row> = rows
        .flat_map(|(case, outcomes)| rows_of(case, outcomes))
        .collect();
    for threads in STUCK {
        let took = in_each("time limit", processes, || stuck(&scene, &patch, threads))?;
        let what = format!("one thread never leaves, {threads} compute elsewhere: --timeout 1");
        rows.push(Row::new(what, "ms", took).reaching("under 2000"));
    }
    Ok(Section {
        title: "Until every thread has switched",
        meaning: MEANING,
        rows,
    })
}

const MEANING: &str = "\
Wall time of a first `engraft apply --timeout 10`, from the start of its process to its end, at which every thread has
switched. Only those that succeeded; the rows with % say how many did. *Asleep in a function in a loop* are threads that
call the function again as soon as it has returned: it sleeps in poll for 300 ms. *Computing elsewhere* are threads that
never call what is replaced. *One thread never leaves*: how long the command takes that is given one second, and fails.";

fn rows_of(case: &Case, outcomes: &[Outcome]) -> [Row; 2] {
    let what = format!("{}, {} threads", case.what, case.threads);
    let succeeded = outcomes.iter().filter(|outcome| outcome.all_have_switched);
    let share = |outcome: &Outcome| {
        if outcome.all_have_switched {
            100.0
        } else {
            0.0
        }
    };
    [
        Row::new(format!("{what}: succeeds"), "%", outcomes.iter().map(share)).reaching("100"),
        Row::new(what, "ms", succeeded.map(|outcome| outcome.took)).reaching(case.reach),
    ]
}

fn one(scene: &Scene<'_>, patch: &Path, case: &Case) -> Result<Outcome> {
    let (code, took) = apply(scene, patch, (case.kind, case.threads), PATIENCE)?;
    Ok(Outcome {
        all_have_switched: code == Some(exit::OK),
        took,
    })
}

/// How long a command takes that cannot succeed.
fn stuck(scene: &Scene<'_>, patch: &Path, threads: u32) -> Result<f64> {
    let (code, took) = apply(scene, patch, ("stuck", threads), SHORT)?;
    ensure!(code == Some(exit::TARGET_BUSY), "exit code {code:?}");
    Ok(took)
}

/// Applies the patch to a fresh process. Returns the exit code and how long the command took, in
/// milliseconds.
fn apply(
    scene: &Scene<'_>,
    patch: &Path,
    (kind, threads): (&str, u32),
    timeout: &str,
) -> Result<(Option<i32>, f64)> {
    let mut program = scene.start(&[kind, &threads.to_string()])?;
    ask(&mut program, "version", "version")?;
    let pid = program.pid().to_string();
    let mut apply = scene.engraft.command(["apply"]);
    apply.arg(patch).args(["--pid", &pid, "--timeout", timeout]);
    let started = Instant::now();
    let outcome = run(&mut apply, LIMIT)?;
    Ok((outcome.code, milliseconds(started.elapsed())))
}
