//! Lies that once worked. Each is told again and again next to an honest process.

use anyhow::{Context, Result, ensure};
use engraft_testkit::{exit, is_root, skip};

use crate::scene::{PATCH, Scene};

/// How often each lie is told in the long form, and in the short one, each time to ten commands.
const LONG: usize = 20;
const SHORT: usize = 1;

/// In seconds.
const TIMEOUT: u64 = 3;

/// The lies, by their numbers in the program: snapshots with tables that overlap, with endless
/// images or never at rest; an agent that never answers; link maps without end.
const LIES: [(&str, u64); 7] = [
    ("names of 62 MiB", 1 << 12),
    ("one long name for all", 1 << 13),
    ("tables in tables", 1 << 14),
    ("images of a terabyte", 1 << 15),
    ("never at rest", 1 << 16),
    ("never answers", 1 << 17),
    ("endless link maps", 1 << 19),
];

#[test]
fn no_lie_costs_more_than_the_time_of_the_command() -> Result<()> {
    if !is_root()? {
        skip(
            "no_lie_costs_more_than_the_time_of_the_command",
            "only root can start processes of others",
        );
        return Ok(());
    }
    let attempts = match std::env::var_os("ENGRAFT_LONG_TESTS") {
        Some(_) => LONG,
        None => SHORT,
    };
    let mut scene = Scene::new()?;
    for (name, lie) in LIES {
        let (mut memory, mut longest) = (0, std::time::Duration::ZERO);
        for _ in 0..attempts {
            let costs = tell(&mut scene, lie).with_context(|| format!("of {name}"))?;
            memory = memory.max(costs.0);
            longest = longest.max(costs.1);
        }
        println!("{name}: {attempts} times, at most {memory} KiB and {longest:.1?}");
    }
    scene.honest.finish()
}

/// The most memory and time that a command took next to a process that tells this lie.
fn tell(scene: &mut Scene, lie: u64) -> Result<(i64, std::time::Duration)> {
    let hostile = scene.hostile(1, Some(lie))?;
    let (liar, honest) = (hostile.pid(), scene.honest.pid().to_string());
    let patch = scene.patch.display().to_string();
    let mut costs = (0, std::time::Duration::ZERO);
    let mut give = |scene: &Scene, arguments: &[&str], processes: u32| {
        let measured = scene.run(arguments, TIMEOUT, processes)?;
        costs.0 = costs.0.max(measured.memory);
        costs.1 = costs.1.max(measured.took);
        Ok::<_, anyhow::Error>(measured)
    };
    // Other tests' processes may be at any point: the exit code says nothing about ours.
    let applied = give(scene, &["apply", &patch, "--all"], 1)?;
    let line = format!("patch '{PATCH}' applied to process {honest}");
    ensure!(applied.stdout.contains(&line), "no {line:?}: {applied}");
    scene.expect(true)?;
    let status = give(scene, &["status"], 1)?;
    let line = format!("process {honest}: 1 patch");
    ensure!(status.stdout.contains(&line), "no {line:?}: {status}");
    for arguments in [
        &["status", "--json", "--pid", &liar][..],
        &["check", &patch, "--pid", &liar],
        &["apply", &patch, "--pid", &liar],
        &["wait", "--pid", &liar],
        &["enable", "hostile", "--pid", &liar],
        &["force", "hostile", "--pid", &liar],
        &["disable", "hostile", "--pid", &liar],
        &["remove", "hostile", "--pid", &liar],
    ] {
        give(scene, arguments, 1)?;
    }
    for words in [
        &["disable", PATCH][..],
        &["remove", PATCH],
        &["remove", "--agent"],
    ] {
        let arguments = [words, &["--pid", &honest]].concat();
        let done = give(scene, &arguments, 1)?;
        ensure!(done.code == exit::OK, "{done}");
    }
    scene.check_untouched()?;
    Ok(costs)
}

/// The longest time that can be asked for is a time, and what is longer an error of the command
/// line.
#[test]
fn any_timeout_is_understood_or_refused() -> Result<()> {
    let scene = Scene::new()?;
    let honest = scene.honest.pid().to_string();
    for (timeout, code) in [
        ("31536000", exit::NO_SUCH_PATCH),
        ("31536001", exit::USAGE),
        ("18446744073709551615", exit::USAGE),
        ("18446744073709551616", exit::USAGE),
        ("-1", exit::USAGE),
    ] {
        let arguments = ["disable", PATCH, "--pid", &honest, "--timeout", timeout];
        let outcome = scene.engraft.run(arguments)?.exits(code)?;
        ensure!(!outcome.stderr.contains("panicked"), "{outcome}");
    }
    scene.honest.finish()
}
