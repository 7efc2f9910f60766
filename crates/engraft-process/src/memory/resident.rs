//! Which pages of a range are in memory.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use engraft_machine::PAGE_SIZE;

use crate::memory::fields::word;
use crate::process::handle::Process;
use crate::process::limits::{Budget, RESIDENT_BYTES};
use crate::sys::address::TargetAddress;

/// Bit 63 of an entry of `/proc/PID/pagemap`: the page is in memory.
const PRESENT: u64 = 1 << 63;
/// Bit 62: it is in swap space.
const SWAPPED: u64 = 1 << 62;

/// How many bytes of these ranges are in memory: the pages that the process has touched. The target
/// itself names the ranges, so it is an error if they are too long in all.
pub(crate) fn resident_bytes(
    process: &Process,
    ranges: impl IntoIterator<Item = Range<TargetAddress>>,
) -> io::Result<u64> {
    let budget = Budget::new(process.pid(), "bytes of patches", RESIDENT_BYTES);
    let mut resident = 0;
    for range in ranges {
        let length = range.end.get().saturating_sub(range.start.get());
        budget
            .take(length.max(PAGE_SIZE))
            .map_err(io::Error::other)?;
        resident += resident_in(process, &range)?;
    }
    Ok(resident)
}

fn resident_in(process: &Process, range: &Range<TargetAddress>) -> io::Result<u64> {
    const ENTRY: u64 = 8;
    let end = range.end.min(range.start + RESIDENT_BYTES);
    let end = end.get().div_ceil(PAGE_SIZE);
    let mut page = range.start.get() / PAGE_SIZE;
    let file = File::open(process.memory_task().path("pagemap"))?;
    let mut resident = 0;
    let mut entries = [0; PAGE_SIZE as usize];
    while page < end {
        let length = entries.len().min(((end - page) * ENTRY) as usize);
        let part = entries.get_mut(..length).unwrap_or_default();
        let read = file.read_at(part, page * ENTRY)?;
        let read = part.get(..read).unwrap_or_default();
        let present = |entry: &&[u8]| word(entry, 0) & PRESENT != 0;
        resident += read.chunks_exact(ENTRY as usize).filter(present).count() as u64;
        page += read.len() as u64 / ENTRY;
        // The process has ended, or there are no addresses as high as these.
        if read.len() < length {
            break;
        }
    }
    Ok(resident * PAGE_SIZE)
}

/// The parts of a range that the process has touched: pages in memory, and pages that were swapped
/// out. The whole range if the kernel does not say.
pub(crate) fn touched_pages(
    pages: Option<&File>,
    range: &Range<TargetAddress>,
) -> Vec<Range<TargetAddress>> {
    let first = range.start.get() / PAGE_SIZE;
    let count = range.end.get().div_ceil(PAGE_SIZE) - first;
    let mut entries = vec![0; count as usize * 8];
    let read = pages.map(|pages| pages.read_exact_at(&mut entries, first * 8));
    if !matches!(read, Some(Ok(()))) {
        return vec![range.clone()];
    }
    let mut runs: Vec<Range<TargetAddress>> = Vec::new();
    for (entry, page) in entries.chunks_exact(8).zip(first..) {
        if word(entry, 0) & (PRESENT | SWAPPED) == 0 {
            continue;
        }
        let page = TargetAddress::new(page * PAGE_SIZE);
        let (start, end) = (page.max(range.start), (page + PAGE_SIZE).min(range.end));
        match runs.last_mut().filter(|run| run.end == start) {
            Some(run) => run.end = end,
            None => runs.push(start..end),
        }
    }
    runs
}
