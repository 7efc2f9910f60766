//! `cargo xtask demo`: a server with a bug is fixed while it runs.
//!
//! [`story`] does it and says what it sees; the command prints that, and a test asserts it.

mod clients;
pub mod story;

use std::io;
use std::time::Instant;

use anyhow::Result;
use engraft_testkit::Engraft;

use crate::cargo;
use crate::tools;

/// Builds engraft and tells the story to the terminal.
pub fn run() -> Result<()> {
    tools::require(tools::COMPILER)?;
    println!("Building engraft ...");
    let engraft = Engraft::new(cargo::build_engraft()?);
    let start = Instant::now();
    story::tell(&engraft, &mut io::stdout().lock())?;
    println!("\nEvery answer above was given by the running server just now.");
    println!("The story took {:.1} s.", start.elapsed().as_secs_f32());
    Ok(())
}
