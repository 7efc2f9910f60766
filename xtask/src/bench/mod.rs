//! `cargo xtask bench`: measurements, apart from the tests because no figure is right or wrong.

mod pause;
mod statistics;

use std::fs;
use std::thread;

use anyhow::Result;
use engraft_testkit::Engraft;

use crate::cargo::{self, Profile};
use crate::tools;

/// Runs all measurements, each with this many fresh processes.
pub fn run(processes: usize) -> Result<()> {
    tools::require(tools::COMPILER)?;
    println!("Building engraft ...");
    let engraft = Engraft::new(cargo::build_engraft(Profile::Release)?);
    let cpus = thread::available_parallelism()?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    println!(
        "{cpus} CPUs, Linux {}, {processes} processes each",
        kernel.trim()
    );
    pause::run(&engraft, processes)
}
