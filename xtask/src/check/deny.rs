//! What we depend on may be used: licenses, origins and known weaknesses, by `cargo deny` and
//! `deny.toml`.

use anyhow::{Context, Result};

use super::command;
use super::tally::Tally;
use crate::cargo;

/// Checks all that needs no network, and the advisories if their database can be fetched.
///
/// Not where cargo-deny is missing: to build it takes minutes, of which the whole run has thirty.
pub(super) fn check() -> Result<Tally> {
    if !cargo::has_program("deny") {
        let reason = "cargo-deny is missing; run: cargo install --locked cargo-deny";
        return Ok(Tally::of_skipped(reason));
    }
    let mut tally = command(deny().args([
        "check",
        "--hide-inclusion-graph",
        "licenses",
        "bans",
        "sources",
    ]))?;
    let fetched = deny().args(["fetch", "db"]).output();
    let fetched = fetched.context("failed to start cargo deny")?;
    tally += if fetched.status.success() {
        command(deny().args(["check", "--disable-fetch", "advisories"]))?
    } else {
        Tally::of_skipped(&unreachable(&String::from_utf8_lossy(&fetched.stderr)))
    };
    Ok(tally)
}

fn deny() -> std::process::Command {
    let mut deny = cargo::command();
    deny.args(["deny", "--workspace", "--color", "never"]);
    deny
}

/// Why the advisories are not checked.
fn unreachable(said: &str) -> String {
    let mut lines = said.lines().rev().map(str::trim);
    let last = lines.find(|line| !line.is_empty());
    let reason = last.unwrap_or("no reason was given");
    format!("advisories: their database cannot be fetched: {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_the_last_thing_that_was_said() {
        let reason = unreachable("[ERROR] failed\n  caused by: no route to host\n\n");
        assert!(reason.ends_with("cannot be fetched: caused by: no route to host"));
        assert!(unreachable("").ends_with("no reason was given"));
    }
}
