//! Three patches of a() in the program and b() in a library that is loaded in between: whatever
//! the order, a and b run the same patch, the newest one that is enabled.

use std::path::PathBuf;

use anyhow::{Context, Result};
use engraft_testkit::{Engraft, Program, Victim, exit};

use crate::{engraft, victim};

/// One thing that happens to the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Apply(usize),
    Disable(usize),
    Open,
    Close,
}
use Event::{Apply, Close, Disable, Open};

/// The victim and three patches for it.
struct Scene {
    engraft: Engraft,
    victim: Victim,
    patches: Vec<PathBuf>,
}

impl Scene {
    fn new() -> Result<Self> {
        let (engraft, victim) = (engraft(), victim("host")?);
        let patches = ["p1", "p2", "p3"].into_iter().map(|name| {
            victim.patch(
                &engraft,
                &format!("{name}.patch"),
                name,
                &["host", "library.so"],
            )
        });
        let patches = patches.collect::<Result<_>>()?;
        Ok(Self {
            engraft,
            victim,
            patches,
        })
    }

    /// Runs a fresh program through the events and looks at a and b after each.
    fn play(&self, events: &[Event]) -> Result<()> {
        let mut program = self.victim.start("host", &[])?;
        let mut state = State::default();
        for (index, &event) in events.iter().enumerate() {
            self.step(&mut program, &mut state, event)
                .with_context(|| format!("after {:?}", &events[..=index]))?;
        }
        program.finish()
    }

    fn step(&self, program: &mut Program, state: &mut State, event: Event) -> Result<()> {
        match event {
            Apply(patch) => {
                let file = &self.patches[patch - 1];
                self.engraft.apply(file, program.pid())?.exits(exit::OK)?;
                state.enabled.push(patch);
            }
            Disable(patch) => {
                self.engraft
                    .disable(&format!("p{patch}"), program.pid())?
                    .exits(exit::OK)?;
                state.enabled.retain(|&enabled| enabled != patch);
            }
            Open => {
                let library = self.victim.file("library.so");
                program.expect(&format!("open {}", library.display()), "opened")?;
                state.open = true;
                // The constructor ran what everybody runs.
                program.expect("seen", &format!("b={}", state.top()))?;
            }
            Close => {
                program.expect("close", "closed")?;
                state.open = false;
            }
        }
        program.expect("ask", &state.answer())
    }
}

/// What the program should be like.
#[derive(Debug, Default)]
struct State {
    /// Oldest first.
    enabled: Vec<usize>,
    open: bool,
}

impl State {
    fn top(&self) -> usize {
        100 + self.enabled.last().unwrap_or(&0)
    }

    fn answer(&self) -> String {
        let top = self.top();
        if self.open {
            format!("a={top} b={top}")
        } else {
            format!("a={top} b=-")
        }
    }
}

/// The library comes at each point between the three patches, and each of them goes first.
#[test]
fn the_library_comes_at_any_point() -> Result<()> {
    let scene = Scene::new()?;
    for point in 0..=3 {
        for first in 1..=3 {
            let mut events = vec![Apply(1), Apply(2), Apply(3)];
            events.insert(point, Open);
            events.push(Disable(first));
            events.extend((1..=3).rev().filter(|&patch| patch != first).map(Disable));
            scene.play(&events)?;
        }
    }
    Ok(())
}

/// Whoever goes first, and whoever goes next.
#[test]
fn three_patches_go_in_any_order() -> Result<()> {
    let scene = Scene::new()?;
    for [first, second, third] in [
        [1, 2, 3],
        [1, 3, 2],
        [2, 1, 3],
        [2, 3, 1],
        [3, 1, 2],
        [3, 2, 1],
    ] {
        scene.play(&[
            Open,
            Apply(1),
            Apply(2),
            Apply(3),
            Disable(first),
            Disable(second),
            Disable(third),
        ])?;
    }
    Ok(())
}

/// The library comes when the patch in the middle has already gone, and goes and comes again.
#[test]
fn the_library_comes_after_the_middle_one_has_gone() -> Result<()> {
    let scene = Scene::new()?;
    scene.play(&[
        Apply(1),
        Apply(2),
        Apply(3),
        Disable(2),
        Open,
        Disable(3),
        Disable(1),
    ])?;
    scene.play(&[
        Apply(1),
        Apply(2),
        Disable(1),
        Open,
        Apply(3),
        Disable(2),
        Close,
        Open,
    ])?;
    scene.play(&[
        Open,
        Apply(1),
        Close,
        Apply(2),
        Open,
        Apply(3),
        Close,
        Disable(2),
        Open,
    ])
}

/// A patch that was disabled and is applied again is the newest.
#[test]
fn a_patch_applied_again_is_the_newest() -> Result<()> {
    let scene = Scene::new()?;
    scene.play(&[
        Apply(3),
        Open,
        Apply(1),
        Disable(3),
        Apply(3),
        Close,
        Open,
        Disable(3),
    ])?;
    scene.play(&[
        Apply(2),
        Apply(1),
        Disable(2),
        Open,
        Apply(2),
        Disable(1),
        Apply(1),
    ])
}
