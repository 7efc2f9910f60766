//! What it costs a program to load and unload a library that no patch is for.

use std::path::Path;

use anyhow::Result;
use engraft_testkit::{Engraft, exit};

use super::report::{Row, Section};
use super::scene::{Scene, ask, in_each};

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
The same library is loaded and unloaded 1,001 times; the figure of a process is the median of these. Then the program
gets a patch that changes nothing in the library, and does the same again.";

fn one(scene: &Scene<'_>, patch: &Path) -> Result<Figures> {
    let library = scene.victim.file("library.so").display().to_string();
    let mut program = scene.start(&[&library])?;
    // The first rounds of all fill caches.
    ask(&mut program, "time", "ns")?;
    let without_agent = ask(&mut program, "time", "ns")?;
    let outcome = scene.engraft.apply(patch, program.pid())?;
    outcome.exits(exit::OK)?;
    program.expect("version", "2")?;
    ask(&mut program, "time", "ns")?;
    let with_agent = ask(&mut program, "time", "ns")?;
    program.finish()?;
    Ok(Figures {
        without_agent: without_agent / 1000.0,
        with_agent: with_agent / 1000.0,
    })
}
