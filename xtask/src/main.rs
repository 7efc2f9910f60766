//! `cargo xtask`: reads the command line, runs the task.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The one door to the project's tasks.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Fix a small server while it runs, and tell what happens (under a minute).
    Demo,
    /// Run every check and test of the project.
    Test,
    /// Tell how a patch could miss half of a library in 2015, and why it cannot now.
    Model,
    /// Measure how long a patched program stands still.
    Bench {
        /// How many fresh processes each figure is taken from.
        #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..))]
        processes: u16,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Demo => xtask::demo::run().map(|()| true),
        Task::Test => xtask::check::run(),
        Task::Model => xtask::model::run().map(|()| true),
        Task::Bench { processes } => xtask::bench::run(usize::from(processes)).map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        // What failed was said where it did.
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
