//! `cargo xtask bench`: measurements, apart from the tests because no figure is right or wrong.

mod calls;
mod loading;
mod memory;
mod page;
mod pause;
mod picture;
mod programs;
mod progress;
mod report;
mod scene;
mod statistics;
mod svg;

use anyhow::Result;
use engraft_testkit::Engraft;

use crate::cargo;
use crate::tools;
use page::Machine;
use report::Section;

/// What is measured, and how.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// How many fresh processes each figure is taken from.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..))]
    processes: u16,
    /// Apply and remove a patch 1,000 times instead of 50 to see whether the target grows.
    #[arg(long)]
    long: bool,
    /// Write docs/bench/README.md and its picture, too.
    #[arg(long, conflicts_with = "only")]
    write: bool,
    /// Only this part; may be given several times.
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// Of the programs, only those whose name begins so: redis, nginx, memcached, C, python, node
    /// or java; may be given several times.
    #[arg(long, conflicts_with = "write")]
    program: Vec<String>,
}

/// A part of the measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Pause,
    Calls,
    Loading,
    Memory,
    Progress,
    /// Builds several programs of Debian's, the first time.
    Programs,
}

/// Measures what was asked for and prints it; with `--write`, the page of documentation is written.
pub fn run(options: &Options) -> Result<()> {
    tools::require(tools::COMPILER)?;
    println!("Building engraft ...");
    let engraft = Engraft::new(cargo::build_engraft()?);
    let processes = usize::from(options.processes);
    let machine = Machine::look()?.line(processes);
    println!("{machine}");

    let wanted = |part| options.only.is_empty() || options.only.contains(&part);
    let mut sections = Vec::new();
    let mut show = |section: Section| {
        print!("{}", section.text());
        sections.push(section);
    };
    let mut pauses = None;
    if wanted(Part::Pause) {
        let measured = pause::measure(&engraft, processes)?;
        measured.sections().into_iter().for_each(&mut show);
        pauses = Some(measured);
    }
    if wanted(Part::Calls) {
        show(calls::measure(&engraft, processes)?);
    }
    if wanted(Part::Loading) {
        show(loading::measure(&engraft, processes)?);
    }
    if wanted(Part::Memory) {
        let rounds = if options.long { 1000 } else { 50 };
        show(memory::measure(&engraft, processes, rounds)?);
    }
    if wanted(Part::Progress) {
        show(progress::measure(&engraft, processes)?);
    }
    // Without being asked for it, nothing is fetched and built for this.
    if options.only.contains(&Part::Programs) || (options.only.is_empty() && programs::is_filled())
    {
        show(programs::measure(&engraft, processes, &options.program)?);
    } else if options.only.is_empty() {
        println!("Programs in use are measured once `--only programs` has built them.");
    }
    if let (true, Some(pauses)) = (options.write, pauses) {
        let picture = picture::draw(&pauses, &machine);
        page::write(&sections, &picture, &machine, &options.arguments())?;
    }
    Ok(())
}

impl Options {
    /// As they were given, for the page to say how it was made.
    fn arguments(&self) -> String {
        let long = if self.long { " --long" } else { "" };
        format!(" --processes {}{long} --write", self.processes)
    }
}
