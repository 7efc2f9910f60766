//! The target's memory map.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Range;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use crate::process::handle::Process;
use crate::process::limits::{self, BeyondLimit, MAPPINGS, MAPS_BYTES};
use crate::process::task::or_gone;
use crate::sys::address::TargetAddress;

/// Why the memory map could not be read.
#[derive(Debug, thiserror::Error)]
pub enum MapsError {
    /// The process has ended.
    #[error("process {pid} has ended")]
    Gone {
        /// The process.
        pid: i32,
    },
    /// A line is not as proc(5) has it.
    #[error("a line of the memory map of process {pid} has an unknown form: {line:?}")]
    Malformed {
        /// The process.
        pid: i32,
        /// The line.
        line: String,
    },
    /// The map has more than we read of one process.
    #[error(transparent)]
    Beyond(#[from] BeyondLimit),
    /// The system reports another error.
    #[error("failed to read the memory map of process {pid}: {source}")]
    System {
        /// The process.
        pid: i32,
        /// The error.
        source: io::Error,
    },
}

/// One mapping: a line of `/proc/PID/maps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The addresses.
    pub range: Range<TargetAddress>,
    /// May be read.
    pub readable: bool,
    /// May be written.
    pub writable: bool,
    /// May be executed.
    pub executable: bool,
    /// Changes are seen by others that map the same file.
    pub shared: bool,
    /// Which part of the file is mapped: from this offset on.
    pub offset: u64,
    /// The device (major, minor) and inode of the file; zeros for anonymous memory.
    pub file: (u32, u32, u64),
    /// A path (perhaps ending in ` (deleted)`), a name in brackets such as `[stack]`, or nothing.
    pub name: OsString,
}

impl Mapping {
    /// Whether a file is mapped.
    pub fn has_file(&self) -> bool {
        self.file.2 != 0
    }

    /// The path of the file, if there is one.
    pub fn path(&self) -> Option<&Path> {
        self.has_file().then(|| Path::new(&self.name))
    }

    fn parse(line: &[u8]) -> Option<Self> {
        // Only the name may contain anything but ASCII, and it is the rest of the line.
        let mut words = line.splitn(6, |byte| *byte == b' ');
        let mut word = || std::str::from_utf8(words.next()?).ok();
        let hexadecimal = |text: &str| u64::from_str_radix(text, 16).ok();
        let (start, end) = word()?.split_once('-')?;
        let range = hexadecimal(start)?.into()..hexadecimal(end)?.into();
        let permissions = word()?.as_bytes();
        let offset = hexadecimal(word()?)?;
        let (major, minor) = word()?.split_once(':')?;
        let major = u32::from_str_radix(major, 16).ok()?;
        let minor = u32::from_str_radix(minor, 16).ok()?;
        let inode = word()?.parse().ok()?;
        let name = words.next().unwrap_or_default().trim_ascii_start();
        Some(Self {
            range,
            readable: *permissions.first()? == b'r',
            writable: *permissions.get(1)? == b'w',
            executable: *permissions.get(2)? == b'x',
            shared: *permissions.get(3)? == b's',
            offset,
            file: (major, minor, inode),
            name: OsString::from_vec(name.to_vec()),
        })
    }
}

/// The text of the memory map, at most one byte more than the bound.
fn read_text(process: &Process) -> io::Result<Vec<u8>> {
    let file = File::open(process.memory_task().path("maps"))?;
    let mut text = Vec::new();
    file.take(MAPS_BYTES + 1).read_to_end(&mut text)?;
    Ok(text)
}

/// All mappings, in the order of their addresses.
#[derive(Clone, Debug, Default)]
pub struct Maps {
    mappings: Vec<Mapping>,
}

impl Maps {
    /// Parses the text of `/proc/PID/maps`.
    ///
    /// # Errors
    /// The first line that is not as proc(5) has it.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let lines = text
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty());
        let parse =
            |line| Mapping::parse(line).ok_or_else(|| String::from_utf8_lossy(line).into_owned());
        let mappings = lines.map(parse).collect::<Result<_, _>>()?;
        Ok(Self { mappings })
    }

    pub(crate) fn read(process: &Process) -> Result<Self, MapsError> {
        let pid = process.pid();
        let gone = || MapsError::Gone { pid };
        if !process.is_alive() {
            return Err(gone());
        }
        let read = || or_gone(read_text(process));
        let mut text = read();
        // If the file is empty or does not exist any more, that thread has ended. Another one may
        // live.
        if !matches!(&text, Ok(Some(text)) if !text.is_empty()) {
            process.find_memory_tid().ok_or_else(gone)?;
            text = read();
        }
        match text {
            _ if !process.is_alive() => Err(gone()),
            Ok(None) => Err(gone()),
            Ok(Some(text)) if text.is_empty() => Err(gone()),
            Ok(Some(text)) => {
                let (bytes, lines) = (
                    text.len(),
                    text.iter().filter(|byte| **byte == b'\n').count(),
                );
                let what = "bytes in its memory map";
                limits::within(process.pid(), what, bytes, MAPS_BYTES as usize)?;
                limits::within(process.pid(), "mappings", lines, MAPPINGS)?;
                Self::parse(&text).map_err(|line| MapsError::Malformed { pid, line })
            }
            Err(source) => Err(MapsError::System { pid, source }),
        }
    }

    /// The mappings, lowest address first.
    pub fn iter(&self) -> std::slice::Iter<'_, Mapping> {
        self.mappings.iter()
    }

    /// The mapping that contains the address.
    pub fn find(&self, address: TargetAddress) -> Option<&Mapping> {
        let after = self
            .mappings
            .partition_point(|mapping| mapping.range.start <= address);
        let candidate = self.mappings.get(after.checked_sub(1)?)?;
        candidate.range.contains(&address).then_some(candidate)
    }

    /// The mappings from an address on, ascending.
    pub fn from(&self, address: TargetAddress) -> impl Iterator<Item = &Mapping> {
        let before = |mapping: &Mapping| mapping.range.start < address;
        let first = self.mappings.partition_point(before);
        self.mappings.iter().skip(first)
    }

    /// The mapping of the start of the file that is mapped at the address: the nearest mapping of
    /// the same file at or below the address with offset 0. It has the ELF header.
    pub fn file_start(&self, address: TargetAddress) -> Option<&Mapping> {
        let file = self
            .find(address)
            .filter(|mapping| mapping.has_file())?
            .file;
        let below = self
            .mappings
            .iter()
            .rev()
            .skip_while(|m| m.range.start > address);
        let mut same = below.filter(|mapping| mapping.file == file);
        same.find(|mapping| mapping.offset == 0)
    }
}

impl<'m> IntoIterator for &'m Maps {
    type Item = &'m Mapping;
    type IntoIter = std::slice::Iter<'m, Mapping>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
