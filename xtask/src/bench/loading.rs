//! The cost of loading and unloading a library that no patch concerns.

use std::path::Path;

use anyhow::{Context, Result};
use engraft_testkit::{Engraft, Program, exit};

use super::report::{Row, Section};
use super::scene::{Scene, ask, in_each};
use super::statistics::Sample;

const NAME: &str = "bench-loading";

/// Microseconds for one dlopen and dlclose, in one process.
struct Figures {
    without_agent: f64,
    with_agent: f64,
}

pub(super) fn measure(engraft: &Engraft, processes: usize) -> Result<Section> {
    let scene = Scene::new(engraft, "loading")?;
    let patch = scene.patch("fix.patch", NAME)?;
    let figures = in_each("loading", processes, || one(&scene, &patch))?;
    let each = |which: fn(&Figures) -> f64| figures.iter().map(which).collect::<Vec<_>>();
    let rows = vec![
        Row::new("without agent", "us", each(|one| one.without_agent)),
        Row::new(
            "with agent and a patch for another file",
            "us",
            each(|one| one.with_agent),
        ),
        Row::new(
            "more with agent",
            "%",
            each(|one| (one.with_agent / one.without_agent - 1.0) * 100.0),
        )
        .reaching("under 10"),
    ];
    Ok(Section {
        title: "dlopen and dlclose of a small library",
        meaning: MEANING,
        rows,
    })
}

const MEANING: &str = "\
The same library is loaded and unloaded 1,001 times, of which the median is taken. Then the program gets a patch that
changes nothing in the library, and does the same again; then patch and agent are removed. The figure of a process is the
median of 7 such turns, so that what changes in the meantime on the machine does not look like a cost.";

const TURNS: usize = 7;

fn one(scene: &Scene<'_>, patch: &Path) -> Result<Figures> {
    let library = scene.victim.file("library.so").display().to_string();
    let mut program = scene.start(&[&library])?;
    let (mut without_agent, mut with_agent) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        without_agent.push(time(&mut program)?);
        let outcome = scene.engraft.apply(patch, program.pid())?;
        outcome.exits(exit::OK)?;
        program.expect("version", "2")?;
        with_agent.push(time(&mut program)?);
        scene.give("disable", NAME, &program)?;
        scene.give("remove", NAME, &program)?;
        scene.give("remove", "--agent", &program)?;
    }
    program.finish()?;
    Ok(Figures {
        without_agent: median(without_agent)?,
        with_agent: median(with_agent)?,
    })
}

/// Microseconds.
fn time(program: &mut Program) -> Result<f64> {
    // The first rounds fill caches and are not counted.
    ask(program, "time", "ns")?;
    Ok(ask(program, "time", "ns")? / 1000.0)
}

fn median(figures: Vec<f64>) -> Result<f64> {
    let sample = Sample::new(figures).context("failed to take a median of nothing")?;
    Ok(sample.median())
}
