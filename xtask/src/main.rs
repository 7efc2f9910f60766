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
    /// Count files, folders, circles of files and fields of structs, a line for each crate.
    Rooms(xtask::rooms::Options),
    /// Measure what a patch costs the program: pauses, calls, loading, memory.
    Bench(xtask::bench::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Demo => xtask::demo::run().map(|()| true),
        Task::Test => xtask::check::run(),
        Task::Model => xtask::model::run().map(|()| true),
        Task::Rooms(options) => xtask::rooms::print(&options).map(|()| true),
        Task::Bench(options) => xtask::bench::run(&options).map(|()| true),
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
