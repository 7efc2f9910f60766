//! What a process looks like from outside: its mappings, its executable bytes, its tracer.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

/// One line of `/proc/PID/maps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// As in `r-xp`.
    pub permissions: String,
    /// Offset of `start` in the file.
    pub offset: u64,
    /// The file, a name in brackets, or nothing.
    pub name: String,
}

impl Mapping {
    fn parse(line: &str) -> Option<Self> {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let (permissions, rest) = rest.split_once(' ')?;
        let (offset, rest) = rest.split_once(' ')?;
        // Device and inode, then blanks, then the name, which may hold blanks itself.
        let (_device, rest) = rest.split_once(' ')?;
        let name = rest
            .split_once(' ')
            .map_or("", |(_inode, name)| name.trim_start());
        Some(Self {
            start: u64::from_str_radix(start, 16).ok()?,
            end: u64::from_str_radix(end, 16).ok()?,
            permissions: permissions.to_owned(),
            offset: u64::from_str_radix(offset, 16).ok()?,
            name: name.to_owned(),
        })
    }

    /// Whether this is code of the program or of a library. The agent and patches are in memory
    /// files.
    fn is_file_text(&self) -> bool {
        let is_file = self.name.starts_with('/') && !self.name.starts_with("/memfd:");
        self.permissions.contains('x') && is_file
    }
}

/// A process at one moment. It is read piece by piece, so it should do nothing while it is read.
#[derive(Debug)]
pub struct Snapshot {
    pid: u32,
    mappings: Vec<Mapping>,
    text: Vec<(Mapping, Vec<u8>)>,
}

impl Snapshot {
    /// Reads the process.
    pub fn take(pid: u32) -> Result<Self> {
        let task = living_task(pid)?;
        let maps = fs::read_to_string(task.join("maps"))?;
        let mappings: Vec<Mapping> = maps
            .lines()
            .map(|line| Mapping::parse(line).with_context(|| format!("failed to parse {line:?}")))
            .collect::<Result<_>>()?;
        let memory = File::open(task.join("mem"))?;
        let text = mappings
            .iter()
            .filter(|mapping| mapping.is_file_text())
            .map(|mapping| {
                let mut bytes = vec![0; usize::try_from(mapping.end - mapping.start)?];
                memory
                    .read_exact_at(&mut bytes, mapping.start)
                    .with_context(|| format!("failed to read the memory of {}", mapping.name))?;
                Ok((mapping.clone(), bytes))
            });
        let text = text.collect::<Result<_>>()?;
        Ok(Self {
            pid,
            mappings,
            text,
        })
    }

    /// How many bytes of code of its files the process had.
    pub fn text_bytes(&self) -> usize {
        self.text.iter().map(|(_, bytes)| bytes.len()).sum()
    }

    /// How many bytes of the code that this snapshot holds are different, or gone, in `later`.
    ///
    /// Compared by address and not by mapping: changing the protection of a page splits its
    /// mapping.
    pub fn text_bytes_changed(&self, later: &Self) -> usize {
        let changed = self.text.iter().map(|(mapping, old)| {
            let mut kept = 0;
            for (other, new) in &later.text {
                let start = mapping.start.max(other.start);
                let end = mapping.end.min(other.end);
                let same_file = other.name == mapping.name
                    && other.start.wrapping_sub(other.offset)
                        == mapping.start.wrapping_sub(mapping.offset);
                if start < end && same_file {
                    let piece = |from: u64, bytes| part(bytes, start - from, end - from);
                    let (old, new) = (piece(mapping.start, old), piece(other.start, new));
                    kept += old.len() - differing(old, new);
                }
            }
            old.len() - kept
        });
        changed.sum()
    }

    /// How many bytes of code differ from the files that they were mapped from.
    pub fn text_bytes_unlike_files(&self) -> Result<usize> {
        let mut sum = 0;
        for (mapping, bytes) in &self.text {
            let path = PathBuf::from(&mapping.name);
            let file = fs::read(&path).with_context(|| format!("failed to read {path:?}"))?;
            let file = file
                .get(usize::try_from(mapping.offset)?..)
                .unwrap_or_default();
            // Beyond the file's end the last page is zero.
            sum += differing(bytes, file);
        }
        Ok(sum)
    }

    /// Fails unless the process still has the same mappings and the same code, and no tracer.
    pub fn expect_untouched(&self) -> Result<()> {
        let now = Self::take(self.pid)?;
        ensure!(
            self.mappings == now.mappings,
            "the mappings have changed from {:#?} to {:#?}",
            self.mappings,
            now.mappings
        );
        self.expect_same_text_in(&now)
    }

    /// Fails unless the code in this snapshot is still the same and the process has no tracer.
    pub fn expect_same_text(&self) -> Result<()> {
        self.expect_same_text_in(&Self::take(self.pid)?)
    }

    fn expect_same_text_in(&self, now: &Self) -> Result<()> {
        let changed = self.text_bytes_changed(now);
        ensure!(changed == 0, "{changed} bytes of code have changed");
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let tracer = status
            .lines()
            .find_map(|line| line.strip_prefix("TracerPid:"));
        ensure!(
            tracer.map(str::trim) == Some("0"),
            "the process is traced by {tracer:?}"
        );
        Ok(())
    }
}

/// The directory of a thread that still has memory. The first thread has none if it has ended
/// before the others.
fn living_task(pid: u32) -> Result<PathBuf> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        if fs::read_to_string(task.join("maps")).is_ok_and(|maps| !maps.is_empty()) {
            return Ok(task);
        }
    }
    anyhow::bail!("no thread of process {pid} lives")
}

fn part(bytes: &[u8], from: u64, to: u64) -> &[u8] {
    let range = usize::try_from(from).ok().zip(usize::try_from(to).ok());
    let part = range.and_then(|(from, to)| bytes.get(from..to));
    part.unwrap_or_default()
}

fn differing(a: &[u8], b: &[u8]) -> usize {
    let b = b.iter().chain(std::iter::repeat(&0));
    a.iter().zip(b).filter(|(a, b)| a != b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_maps_is_taken_apart() {
        let line = "7f00-7f10 r-xp 00001000 08:01 42                 /tmp/a b.so";
        let mapping = Mapping::parse(line).unwrap();
        assert_eq!(
            (mapping.start, mapping.end, mapping.offset),
            (0x7f00, 0x7f10, 0x1000)
        );
        assert_eq!(
            (mapping.permissions.as_str(), mapping.name.as_str()),
            ("r-xp", "/tmp/a b.so")
        );
        assert_eq!(Mapping::parse("1-2 rw-p 0 0:0 0").unwrap().name, "");
    }

    #[test]
    fn our_own_text_is_that_of_its_files_and_does_not_change() {
        let before = Snapshot::take(std::process::id()).unwrap();
        assert!(before.text_bytes() > 0);
        assert_eq!(before.text_bytes_unlike_files().unwrap(), 0);
        before.expect_same_text().unwrap();
    }

    #[test]
    fn a_changed_byte_of_text_is_seen() {
        let mut before = Snapshot::take(std::process::id()).unwrap();
        before.text[0].1[0] ^= 1;
        assert_eq!(before.text_bytes_unlike_files().unwrap(), 1);
        assert!(before.expect_same_text().is_err());
        assert!(before.expect_untouched().is_err());
    }
}
