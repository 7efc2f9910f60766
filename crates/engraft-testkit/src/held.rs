//! What a process holds that a command could have left there: descriptors, mappings, memory.

use std::fs;

use anyhow::{Context, Result, ensure};

/// What a process holds at one moment. The process should do nothing while it is read.
#[derive(Debug)]
pub struct Held {
    pid: u32,
    /// The number and the file of each descriptor.
    descriptors: Vec<(u32, String)>,
    /// The lines of `/proc/PID/maps`.
    mappings: Vec<String>,
    /// `VmData` of `/proc/PID/status`.
    data: String,
}

impl Held {
    /// Reads it from /proc.
    pub fn take(pid: u32) -> Result<Self> {
        let mut descriptors = Vec::new();
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
            let entry = entry?;
            let number = entry.file_name().to_string_lossy().parse()?;
            let file = fs::read_link(entry.path())?;
            descriptors.push((number, file.display().to_string()));
        }
        descriptors.sort();
        let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let mut lines = status.lines();
        let data = lines.find_map(|line| line.strip_prefix("VmData:"));
        Ok(Self {
            pid,
            descriptors,
            mappings: maps.lines().map(str::to_owned).collect(),
            data: data.context("no VmData")?.trim().to_owned(),
        })
    }

    /// The number of descriptors.
    pub fn descriptors(&self) -> usize {
        self.descriptors.len()
    }

    /// Fails unless the process holds the same now.
    pub fn expect_same(&self) -> Result<()> {
        let now = Self::take(self.pid)?;
        ensure!(
            self.descriptors == now.descriptors,
            "descriptors have changed from {:?} to {:?}",
            self.descriptors,
            now.descriptors
        );
        let new = now.mappings.iter().filter(|it| !self.mappings.contains(it));
        let gone = self.mappings.iter().filter(|it| !now.mappings.contains(it));
        ensure!(
            self.mappings == now.mappings,
            "mappings have come: {:#?}, and gone: {:#?}",
            new.collect::<Vec<_>>(),
            gone.collect::<Vec<_>>()
        );
        ensure!(
            self.data == now.data,
            "VmData has changed from {} to {}",
            self.data,
            now.data
        );
        Ok(())
    }
}
