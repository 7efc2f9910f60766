//! What a call to a small function costs in each state of a patch.
//!
//! Old and new function have the same instructions and differ in one constant, so a difference in
//! time is that of the way to the function. Each call depends on the result of the call before, so
//! calls do not overlap.

use std::path::Path;

use anyhow::{Result, bail};
use engraft_testkit::{Engraft, Program, exit};

use super::report::{Row, Section};
use super::scene::{Scene, figure, in_each};

const NAME: &str = "bench-calls";

/// Nanoseconds for one call.
#[derive(Debug, Clone, Copy)]
struct Call {
    cost: f64,
    /// The cost beyond that of a call to the twin, a function that is never patched, measured at
    /// the same time.
    beyond_twin: f64,
}

/// What one process showed.
struct Figures {
    unpatched: Call,
    /// `None` where a transition does not stay open.
    in_transition: Option<Call>,
    patched: Call,
    disabled: Call,
    removed: Call,
}

impl Figures {
    /// The cost beyond that of a call before the patch. Subtracting the twin removes what the
    /// machine did meanwhile; subtracting the call before the patch removes what the placement of
    /// the functions in memory costs.
    fn detour(&self, call: Call) -> f64 {
        call.beyond_twin - self.unpatched.beyond_twin
    }
}

pub(super) fn measure(engraft: &Engraft, processes: usize) -> Result<Section> {
    let scene = Scene::new(engraft, "calls")?;
    let patch = scene.patch("fix.patch", NAME)?;
    let figures = in_each("calls", processes, || one(&scene, &patch))?;
    let row = |what: &str, which: &dyn Fn(&Figures) -> Option<f64>| {
        // All processes or none: otherwise the sample would be smaller than the page says.
        let all: Option<Vec<_>> = figures.iter().map(which).collect();
        Row::new(what, "ns", all.unwrap_or_default())
    };
    let in_transition = |one: &Figures| one.in_transition;
    let rows = vec![
        row("unpatched", &|one| Some(one.unpatched.cost)),
        row("in transition, a thread that has switched", &|one| {
            Some(in_transition(one)?.cost)
        }),
        row("patched", &|one| Some(one.patched.cost)),
        row("disabled", &|one| Some(one.disabled.cost)),
        row("removed", &|one| Some(one.removed.cost)),
        row("more than unpatched: in transition", &|one| {
            Some(one.detour(in_transition(one)?))
        }),
        row("more than unpatched: patched", &|one| {
            Some(one.detour(one.patched))
        })
        .reaching("under 0.5"),
        row("more than unpatched: removed", &|one| {
            Some(one.detour(one.removed))
        })
        .reaching("0"),
    ];
    Ok(Section {
        title: "Cost of a call",
        meaning: MEANING,
        rows,
    })
}

const MEANING: &str = "\
A loop of direct calls to a function of two instructions, each with what the last one returned: ns of CPU time for one
turn, the best of 51 runs of a million in each process. The new function differs from the old one in one number, so
that what it costs more is the way to it. *More than unpatched* is taken against a second function of the same kind that
is never patched and whose runs take turns with those of the first. *In transition* is with another thread that stays
inside the old code of another function of the same patch.";

fn one(scene: &Scene<'_>, patch: &Path) -> Result<Figures> {
    let mut program = scene.start(&[])?;
    let pid = program.pid();
    let unpatched = time(&mut program, "1")?;

    program.expect("enter", "inside")?;
    let pid_text = pid.to_string();
    let mut apply = scene.engraft.command(["apply"]);
    apply
        .arg(patch)
        .args(["--pid", &pid_text, "--timeout", "1"]);
    let outcome = engraft_testkit::run(&mut apply, engraft_testkit::TIME_LIMIT)?;
    if ![Some(exit::OK), Some(exit::TARGET_BUSY)].contains(&outcome.code) {
        bail!("an unexpected end of {outcome}");
    }
    let status = scene.engraft.status(pid)?;
    let in_transition = if status["patches"][0]["state"] == "enabling" {
        Some(time(&mut program, "2")?)
    } else {
        None
    };
    program.expect("leave", "outside")?;

    scene.engraft.apply(patch, pid)?.exits(exit::OK)?;
    let patched = time(&mut program, "2")?;
    scene.engraft.disable(NAME, pid)?.exits(exit::OK)?;
    let disabled = time(&mut program, "1")?;
    scene.give("remove", NAME, &program)?;
    let removed = time(&mut program, "1")?;
    program.finish()?;
    Ok(Figures {
        unpatched,
        in_transition,
        patched,
        disabled,
        removed,
    })
}

/// What a call costs, and fails unless it is one to this version.
fn time(program: &mut Program, version: &str) -> Result<Call> {
    program.expect("version", version)?;
    let answer = program.ask("time")?;
    let in_ns = |name| figure(&answer, name).map(|ps| ps / 1000.0);
    let cost = in_ns("ps")?;
    Ok(Call {
        cost,
        beyond_twin: cost - in_ns("twin_ps")?,
    })
}
