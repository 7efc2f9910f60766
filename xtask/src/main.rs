//! `cargo xtask`: reads the command line, runs the task.

use anyhow::Result;
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
}

fn main() -> Result<()> {
    match Arguments::parse().task {
        Task::Demo => xtask::demo::run(),
    }
}
