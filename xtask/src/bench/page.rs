//! The page of documentation with all figures, and the machine that they are from.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, ensure};

use super::report::Section;
use crate::cargo;

/// Where and when it was measured.
pub(super) struct Machine {
    cpus: usize,
    cpu: String,
    kernel: String,
    date: String,
    /// How busy the machine was before.
    load: String,
}

impl Machine {
    pub(super) fn look() -> Result<Self> {
        let read =
            |path: &str| fs::read_to_string(path).with_context(|| format!("failed to read {path}"));
        let info = read("/proc/cpuinfo")?;
        let cpu = info
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let date = Command::new("date").args(["-u", "+%Y-%m-%d"]).output()?;
        ensure!(date.status.success(), "date ended with {}", date.status);
        let load = read("/proc/loadavg")?;
        Ok(Self {
            cpus: thread::available_parallelism()?.get(),
            cpu: cpu.map_or("unknown CPU", |(_, cpu)| cpu).to_owned(),
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            date: String::from_utf8(date.stdout)?.trim().to_owned(),
            load: load.split(' ').next().unwrap_or("unknown").to_owned(),
        })
    }

    /// In one line.
    pub(super) fn line(&self, processes: usize) -> String {
        let Self {
            cpus,
            cpu,
            kernel,
            date,
            load,
        } = self;
        format!(
            "{cpus} CPUs ({cpu}), Linux {kernel}, {date}; {processes} processes each; load {load} before"
        )
    }
}

/// Writes the page and its picture.
pub(super) fn write(
    sections: &[Section],
    picture: &str,
    machine: &str,
    arguments: &str,
) -> Result<()> {
    let directory = cargo::workspace().join("docs/bench");
    fs::create_dir_all(&directory)?;
    let mut page = format!(
        "# Measurements

Written by `cargo xtask bench{arguments}`, which measures all of it again; changes by hand
are lost. Without `--write` it only prints. Every figure is the median and the range over the named number of fresh processes, with the release
build.

{machine}

![Pause of a busy thread and delay of a thread with a timer, by number of threads](pause.svg)

*To reach* is what the project has set itself. A number that is not reached stays in this table as it is.
"
    );
    for section in sections {
        // Writing to a String cannot fail.
        let _ = write!(page, "{}", section.markdown());
    }
    for (name, text) in [("README.md", page.as_str()), ("pause.svg", picture)] {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
        println!("wrote {}", path.display());
    }
    Ok(())
}
