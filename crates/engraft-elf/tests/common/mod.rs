//! The memory of the test itself, and what the kernel says is mapped in it.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use engraft_elf::ReadMemory;

/// The memory of this process, read through the kernel.
pub(crate) fn own_memory() -> impl ReadMemory<Error = std::io::Error> {
    let file = File::open("/proc/self/mem").unwrap();
    move |address: u64, buffer: &mut [u8]| file.read_exact_at(buffer, address)
}

/// Where this process has mapped the first file whose path ends with `name`, from its first to its
/// last mapping, and its path.
pub(crate) fn mapped(name: &str) -> Option<(Range<u64>, String)> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut found: Option<(Range<u64>, String)> = None;
    for line in maps.lines().filter(|line| line.ends_with(name)) {
        let (range, rest) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let end = u64::from_str_radix(end, 16).unwrap();
        let path = &rest[rest.find('/')?..];
        match &mut found {
            Some((range, first)) if first == path => range.end = end,
            Some(_) => {}
            None => {
                let start = u64::from_str_radix(start, 16).unwrap();
                found = Some((start..end, path.to_owned()));
            }
        }
    }
    found
}
