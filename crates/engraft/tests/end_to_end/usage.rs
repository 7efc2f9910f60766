//! A wrong command line says what is wrong, on stderr, with an exit code of its own.

use anyhow::{Result, ensure};
use engraft_testkit::{TIME_LIMIT, exit, run};

use crate::engraft;

#[test]
fn a_wrong_command_line_is_explained() -> Result<()> {
    let engraft = engraft();
    for arguments in [
        &["aply"][..],
        &["apply"],
        &["apply", "file.engraft"],
        &["apply", "file.engraft", "--pid", "x"],
        // Exactly one way to say which processes.
        &["apply", "file.engraft", "--pid", "1", "--all"],
        &["apply", "file.engraft", "--exe", "/bin/sh", "--all"],
        &["check", "file.engraft"],
        &["check", "--pid", "1"],
        &["enable"],
        &["remove"],
        &["remove", "name", "--agent"],
        // The agents of the whole machine, only if that is said.
        &["remove", "--agent"],
        &["remove", "--agent", "--all", "--pid", "1"],
        &["remove", "name", "--all"],
        &["check", "file.engraft", "--pid", "1", "--all"],
        &["disable", "--pid", "1"],
        &["status", "--yaml"],
        &["build", "--source", "."],
    ] {
        let outcome = run(&mut engraft.command(arguments), TIME_LIMIT)?.exits(exit::USAGE)?;
        ensure!(
            outcome.stdout.is_empty(),
            "diagnostics on stdout from {outcome}"
        );
        ensure!(!outcome.stderr.is_empty(), "no word from {outcome}");
    }
    Ok(())
}

#[test]
fn help_is_data() -> Result<()> {
    let help = run(&mut engraft().command(["--help"]), TIME_LIMIT)?.exits(exit::OK)?;
    ensure!(help.stderr.is_empty(), "help on stderr from {help}");
    help.says(&[
        "build", "apply", "check", "status", "disable", "enable", "remove",
    ])?;
    Ok(())
}
