//! Lies by lot: each seed is a process, and each process meets every command.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use engraft_testkit::{is_root, skip};

use crate::measured::Measured;
use crate::scene::{PATCH, Scene};

/// What a command may take, in seconds, before it gives up.
const TIMEOUT: u64 = 2;

/// The same where only a hang takes so long.
const PATIENCE: u64 = 50;

const SHORT: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(30 * 60);

#[test]
fn root_is_not_hurt_by_any_process() -> Result<()> {
    if !is_root()? {
        skip(
            "root_is_not_hurt_by_any_process",
            "only root can start processes of others",
        );
        return Ok(());
    }
    let long = std::env::var_os("ENGRAFT_LONG_TESTS").is_some();
    let length = match number("ENGRAFT_HOSTILE_SECONDS") {
        Some(seconds) => Duration::from_secs(seconds),
        None if long => LONG,
        None => SHORT,
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let first = number("ENGRAFT_HOSTILE_SEED").unwrap_or(if long { now << 16 } else { 1 });
    let mut scene = Scene::new()?;
    let mut figures = Figures::default();
    let start = Instant::now();
    for seed in first.. {
        if start.elapsed() > length {
            break;
        }
        round(&mut scene, seed, &mut figures)
            .with_context(|| format!("with ENGRAFT_HOSTILE_SEED={seed}"))?;
    }
    println!("seeds from {first}: {figures}");
    scene.honest.finish()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[derive(Default)]
struct Figures {
    processes: u64,
    commands: u64,
    /// Commands after which the honest process needed another one, with more time.
    late: u64,
    longest: Duration,
    memory: i64,
}

impl Figures {
    fn note(&mut self, measured: &Measured) {
        self.commands += 1;
        self.longest = self.longest.max(measured.took);
        self.memory = self.memory.max(measured.memory);
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            processes,
            commands,
            late,
            longest,
            memory,
        } = self;
        write!(
            f,
            "{processes} processes, {commands} commands, {late} too late, the longest {longest:.1?}, at most {memory} KiB"
        )
    }
}

/// Whether the time was up for one of the processes.
fn is_late(measured: &Measured) -> bool {
    let words = ["is up", "did not return", "did not stop", "for more than"];
    words.iter().any(|words| measured.stderr.contains(words))
}

/// One process that lies, and every command.
fn round(scene: &mut Scene, seed: u64, figures: &mut Figures) -> Result<()> {
    let hostile = scene.hostile(seed, None)?;
    let (liar, honest) = (hostile.pid(), scene.honest.pid().to_string());
    let patch = scene.patch.display().to_string();
    let both = ["--pid", &liar, "--pid", &honest];
    let mut give = |scene: &Scene, arguments: &[&str], word: &str| -> Result<()> {
        let processes = 1 + u32::from(arguments.contains(&honest.as_str()));
        let measured = scene.run(arguments, TIMEOUT, processes)?;
        figures.note(&measured);
        // What is said of the honest process is not changed by what the other one says. Only its
        // time may be up on a machine on which much else runs: then it has more, alone.
        let mut said = measured.says_of(word, &honest);
        if !said && is_late(&measured) {
            figures.late += 1;
            let alone = [&arguments[..arguments.len() - both.len()], &both[2..]].concat();
            said = scene.run(&alone, PATIENCE, 1)?.says_of(word, &honest);
        }
        ensure!(
            said,
            "no line with {word:?} of process {honest}: {measured}"
        );
        Ok(())
    };
    let on_both = |words: &[&'static str]| -> Vec<String> {
        let words = words.iter().chain(&both).map(ToString::to_string);
        words.collect()
    };
    let apply = on_both(&["apply"]);
    let commands: [(Vec<String>, &str, Option<bool>); 7] = [
        (on_both(&["check"]), "can be applied to", None),
        (
            vec!["status".into(), "--pid".into(), liar.clone()],
            "",
            None,
        ),
        (apply, "applied to", Some(true)),
        (
            vec![
                "status".into(),
                "--json".into(),
                "--pid".into(),
                liar.clone(),
            ],
            "",
            None,
        ),
        (on_both(&["disable", PATCH]), "disabled in", Some(false)),
        (on_both(&["remove", PATCH]), "removed from", Some(false)),
        (on_both(&["remove", "--agent"]), "removed from", Some(false)),
    ];
    for (mut arguments, word, patched) in commands {
        if matches!(
            arguments.first().map(String::as_str),
            Some("check" | "apply")
        ) {
            arguments.insert(1, patch.clone());
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        give(scene, &arguments, word)?;
        if let Some(patched) = patched {
            scene.expect(patched)?;
        }
    }
    figures.processes += 1;
    drop(hostile);
    scene.check_untouched()
}
