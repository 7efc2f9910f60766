//! The command `engraft`. Data goes to stdout, diagnostics to stderr.

mod command_line;

use std::process::ExitCode;

use clap::Parser;
use command_line::{CommandLine, Log, complain, run};

fn main() -> ExitCode {
    // A recorded build runs this program in the place of its compiler.
    if let Some(code) = engraft_build::wrapper_main() {
        return code;
    }
    tracing_subscriber::fmt()
        .with_writer(|| Log)
        .with_ansi(false)
        .with_env_filter(tracing_subscriber::EnvFilter::from_env("ENGRAFT_LOG"))
        .init();
    match run(CommandLine::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::from(error.exit_code())
        }
    }
}
