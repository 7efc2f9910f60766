//! How much of a process is read: every bound on what one can make us allocate, read or wait for.
//!
//! Whatever a process says about itself is hostile input. Each bound here is far above what real programs have
//! (the largest that was seen is in its comment) and low enough that a command stays below 200 MB of memory next to a
//! process that lies about everything. A process beyond a bound is an error of that process ([`BeyondLimit`]); other
//! processes are not affected. `docs/security.md` has the table with the reasons.

use std::cell::Cell;
use std::time::Duration;

use crate::process::handle::Process;

/// Link maps in all namespaces together. Large Java and Python programs have some hundred.
pub(crate) const LINK_MAPS: usize = 1 << 14;
/// Namespaces; glibc has 16.
pub(crate) const NAMESPACES: usize = 64;
/// Bytes of a name in memory (`PATH_MAX`).
pub(crate) const NAME: usize = 4096;
/// Program headers of one file; real files have up to 20.
pub(crate) const PROGRAM_HEADERS: u64 = 1024;
/// Bytes of one note segment; real ones have a few hundred.
pub(crate) const NOTES: u64 = 64 << 10;
/// Entries of one dynamic section; real ones have about 30, and one for each library that is needed.
pub(crate) const DYNAMIC_ENTRIES: u64 = 4096;
/// Entries of one chain of a symbol hash table; real chains have fewer than ten.
pub(crate) const HASH_CHAIN: u32 = 4096;
/// Relocations of the loader's procedure linkage table; glibc has fewer than fifty.
pub(crate) const RELOCATIONS: u64 = 1 << 16;
/// Bytes of the loader's variables (`_rtld_global`); glibc has about 4 KiB.
pub(crate) const LOADER_VARIABLES: u64 = 64 << 10;
/// Bytes that are read to find all modules of a process; each takes about 3 KiB.
pub(crate) const DISCOVERY_BYTES: u64 = 32 << 20;
/// Bytes of `/proc/PID/maps`. 65,530 mappings, the default `vm.max_map_count`, take about 6 MiB.
pub(crate) const MAPS_BYTES: u64 = 16 << 20;
/// Mappings: twice the default `vm.max_map_count`.
pub(crate) const MAPPINGS: usize = 1 << 17;
/// Threads. Ten thousand were patched in tests.
pub const THREADS: usize = 1 << 14;
/// Bytes of code that are searched for instructions to borrow. They are found in the vDSO and the C library.
pub(crate) const CODE_BYTES: u64 = 256 << 20;
/// Bytes of unwind tables (`.eh_frame_hdr` and what is used of `.eh_frame`) of all modules together. The largest
/// browsers have about 10 MiB. Code beyond it counts as code without a table: its threads are not clear.
pub(crate) const UNWIND_BYTES: u64 = 64 << 20;
/// Bytes of one entry of `.eh_frame`; real ones have less than a hundred, those of huge functions some thousands.
pub(crate) const UNWIND_ENTRY: u64 = 256 << 10;
/// Different code addresses on the stacks that one scan looks at; a thousand threads have some ten thousand.
pub(crate) const CODE_ADDRESSES: usize = 1 << 19;
/// Bytes of stacks and code that the walks of one stop read, page by page; a thousand threads need some MiB.
pub(crate) const WALK_BYTES: u64 = 32 << 20;
/// Places in code whose rules are kept for the walks of one stop.
pub(crate) const WALK_PLACES: usize = 1 << 15;
/// Bytes that are read of a program's file for its section headers and symbols, with 64 for each piece: enough for the
/// tables of large programs.
pub(crate) const FILE_BYTES: u64 = 96 << 20;
/// Bytes of a process's memory whose presence is asked for.
pub(crate) const RESIDENT_BYTES: u64 = 1 << 30;

/// Bytes of an agent's description of itself. Its heap, in which that lies, has 4 MiB.
pub const SNAPSHOT_BYTES: u64 = 4 << 20;
/// Bytes of one text of an agent: names, paths, reasons.
pub const TEXT: usize = 64 << 10;
/// Ranges of code in an agent's plan: one for each part of a replaced function in each module.
pub const PLAN_RANGES: u64 = 1 << 14;
/// Images of patches in one process.
pub const IMAGES: usize = 1 << 14;

/// How long a process is looked at to find out whether it is meant.
pub const LOOK_TIME: Duration = Duration::from_secs(1);
/// How long undoing may take when the time of a command is up. `--timeout` holds with a second more.
pub(crate) const GRACE: Duration = Duration::from_millis(700);
/// What a wait and a call have at least, also when the time is up: a command with no time is carried out if nothing is
/// in its way.
pub(crate) const SHORTEST_WAIT: Duration = Duration::from_millis(250);

/// A process shows more of something than is read of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("process {pid} shows more {what} than the {limit} that engraft reads of one process")]
pub struct BeyondLimit {
    /// The process.
    pub pid: i32,
    /// Of what.
    pub what: &'static str,
    /// How many are read.
    pub limit: u64,
}

/// What may still be read for one purpose: several reads count together.
#[derive(Debug)]
pub(crate) struct Budget {
    beyond: BeyondLimit,
    left: Cell<u64>,
    is_exceeded: Cell<bool>,
}

/// What a read costs at least: the system call, and the place of what was read.
const READ_COST: u64 = 256;

impl Budget {
    pub(crate) fn new(process: &Process, what: &'static str, limit: u64) -> Self {
        let pid = process.pid();
        Self {
            beyond: BeyondLimit { pid, what, limit },
            left: Cell::new(limit),
            is_exceeded: Cell::new(false),
        }
    }

    /// Takes so many bytes of it.
    pub(crate) fn take(&self, bytes: u64) -> Result<(), BeyondLimit> {
        let left = self.left.get().checked_sub(bytes.max(READ_COST));
        self.is_exceeded
            .set(self.is_exceeded.get() || left.is_none());
        self.left.set(left.ok_or(self.beyond)?);
        Ok(())
    }

    /// An error if more was wanted: for a result that would be taken for complete.
    pub(crate) fn check(&self) -> Result<(), BeyondLimit> {
        match self.is_exceeded.get() {
            true => Err(self.beyond),
            false => Ok(()),
        }
    }
}

/// The count, if it is within the limit.
pub(crate) fn within(
    process: &Process,
    what: &'static str,
    count: usize,
    limit: usize,
) -> Result<(), BeyondLimit> {
    match count > limit {
        true => Err(BeyondLimit {
            pid: process.pid(),
            what,
            limit: limit as u64,
        }),
        false => Ok(()),
    }
}
