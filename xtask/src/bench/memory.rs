//! How much memory a patch adds to the target, and whether any stays after many were applied and
//! removed.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use engraft_testkit::{Engraft, exit};

use super::report::{Row, Section};
use super::scene::{Scene, in_each};

const NAME: &str = "bench-memory";

/// KiB in one process.
struct Figures {
    /// Private pages beyond those of the unpatched process.
    patched: f64,
    /// Resident pages of the mappings that are named after engraft.
    ours: f64,
    removed_once: f64,
    removed_often: f64,
}

pub(super) fn measure(engraft: &Engraft, processes: usize, rounds: usize) -> Result<Section> {
    let scene = Scene::new(engraft, "calls")?;
    let patch = scene.patch("fix.patch", NAME)?;
    let figures = in_each("memory", processes, || one(&scene, &patch, rounds))?;
    let each = |which: fn(&Figures) -> f64| figures.iter().map(which).collect::<Vec<_>>();
    let rows = vec![
        Row::new("growth by one patch", "KiB", each(|one| one.patched)).reaching("under 64"),
        Row::new("agent and patch, resident", "KiB", each(|one| one.ours)).reaching("under 128"),
        Row::new(
            "growth after apply, disable, remove",
            "KiB",
            each(|one| one.removed_once),
        ),
        Row::new(
            format!("growth after {rounds} such rounds"),
            "KiB",
            each(|one| one.removed_often),
        ),
        Row::new(
            format!("more after {rounds} rounds than after one"),
            "KiB",
            each(|one| one.removed_often - one.removed_once),
        )
        .reaching("0"),
    ];
    Ok(Section {
        title: "Memory of the target",
        meaning: MEANING,
        rows,
    })
}

const MEANING: &str = "\
Growth is that of the private pages (`Private_Clean` and `Private_Dirty` in `smaps_rollup`) over the unpatched process.
Agent and patch are the resident pages (`Rss` in `smaps`) of the mappings that bear engraft's name, whether the
process is charged for them or not. In a round, the patch of two functions is applied, disabled and removed; the
agent stays.";

fn one(scene: &Scene<'_>, patch: &Path, rounds: usize) -> Result<Figures> {
    let program = scene.start(&[])?;
    let pid = program.pid();
    let before = private(pid)?;
    let apply = || scene.engraft.apply(patch, pid)?.exits(exit::OK);
    let take_back = || {
        scene.engraft.disable(NAME, pid)?.exits(exit::OK)?;
        scene.give("remove", NAME, &program)
    };
    apply()?;
    let patched = private(pid)? - before;
    let ours = ours(pid)?;
    take_back()?;
    let removed_once = private(pid)? - before;
    for _ in 1..rounds {
        apply()?;
        take_back()?;
    }
    let removed_often = private(pid)? - before;
    program.finish()?;
    Ok(Figures {
        patched,
        ours,
        removed_once,
        removed_often,
    })
}

/// Private pages of a process, in KiB.
fn private(pid: u32) -> Result<f64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        .context("failed to read the process's memory use")?;
    let counted = ["Private_Clean:", "Private_Dirty:"];
    Ok(counted.iter().map(|name| sum(&rollup, name)).sum())
}

/// Resident pages of engraft's mappings, in KiB.
fn ours(pid: u32) -> Result<f64> {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps"))
        .context("failed to read the process's mappings")?;
    Ok(resident_of(&smaps, "engraft-"))
}

/// Adds up the lines `NAME:   N kB`.
fn sum(text: &str, name: &str) -> f64 {
    let lines = text.lines().filter_map(|line| line.strip_prefix(name));
    let figures =
        lines.filter_map(|line| line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
    figures.sum()
}

/// `Rss` of the mappings whose file or name is of this kind.
fn resident_of(smaps: &str, kind: &str) -> f64 {
    let (mut sum_of_all, mut counts) = (0.0, false);
    for line in smaps.lines() {
        let is_head = line.split('-').next().is_some_and(|start| {
            !start.is_empty() && start.bytes().all(|byte| byte.is_ascii_hexdigit())
        });
        if is_head {
            // The name is the sixth field: "/memfd:engraft-agent (deleted)",
            // "[anon:engraft-patch]".
            let name = line.split_ascii_whitespace().nth(5).unwrap_or_default();
            let name = name
                .trim_start_matches("/memfd:")
                .trim_start_matches("[anon:");
            counts = name.starts_with(kind);
        } else if counts {
            sum_of_all += sum(line, "Rss:");
        }
    }
    sum_of_all
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55d0c0000000-55d0c0001000 r-xp 00000000 08:01 42                         /tmp/engraft-victim/calls
Rss:                   4 kB
Private_Dirty:         4 kB
7f0000000000-7f0000010000 r-xp 00000000 00:01 9                          /memfd:engraft-agent (deleted)
Size:                 64 kB
Rss:                  48 kB
Private_Dirty:         8 kB
7f0000020000-7f0000021000 rw-p 00000000 00:00 0                          [anon:engraft-patch]
Rss:                   8 kB
7f0000030000-7f0000031000 rw-p 00000000 00:00 0
Rss:                  16 kB
";

    #[test]
    fn pages_are_added_up() {
        assert_eq!(sum(SMAPS, "Private_Dirty:"), 12.0);
        assert_eq!(sum(SMAPS, "Rss:"), 76.0);
    }

    #[test]
    fn a_mapping_is_ours_by_its_name_not_by_its_directory() {
        assert_eq!(resident_of(SMAPS, "engraft-"), 56.0);
    }
}
