//! How much of a process is read: every bound on what a process can make us allocate, read or wait
//! for.
//!
//! Whatever a process says about itself is hostile input. Each bound here is far above what real
//! programs have (the largest that was seen is in its comment) and low enough that a command stays
//! below 200 MB of memory next to a process that lies about everything. A process beyond a bound is
//! an error of that process ([`BeyondLimit`]); other processes are not affected. `docs/security.md`
//! has the table with the reasons.

use std::cell::Cell;
use std::time::Duration;

/// Bytes of a name in memory (`PATH_MAX`).
pub(crate) const NAME: usize = 4096;
/// Bytes that are read to find all modules of a process; each takes about 3 KiB.
pub(crate) const DISCOVERY_BYTES: u64 = 32 << 20;
/// Bytes of `/proc/PID/maps`. 65,530 mappings, the default `vm.max_map_count`, take about 6 MiB.
pub(crate) const MAPS_BYTES: u64 = 16 << 20;
/// Mappings: twice the default `vm.max_map_count`.
pub(crate) const MAPPINGS: usize = 1 << 17;
/// Threads. Ten thousand were patched in tests.
pub const THREADS: usize = 1 << 14;
/// Bytes of code that are searched for instructions to borrow. They are found in the vDSO and the C
/// library.
pub(crate) const CODE_BYTES: u64 = 256 << 20;
/// Bytes of unwind tables (`.eh_frame_hdr` and what is used of `.eh_frame`) of all modules
/// together. The largest browsers have about 10 MiB. Code beyond the bound counts as code without a
/// table: threads in it are not clear.
pub(crate) const UNWIND_BYTES: u64 = 64 << 20;
/// Bytes of one entry of `.eh_frame`; real ones have less than a hundred, entries of huge functions
/// some thousands.
pub(crate) const UNWIND_ENTRY: u64 = 256 << 10;
/// Different code addresses on the stacks that one scan looks at; a thousand threads have some ten
/// thousand.
pub(crate) const CODE_ADDRESSES: usize = 1 << 19;
/// Bytes of stacks and code that the walks of one stop read, page by page; a thousand threads need
/// some MiB.
pub(crate) const WALK_BYTES: u64 = 32 << 20;
/// Places in code whose rules are kept for the walks of one stop.
pub(crate) const WALK_PLACES: usize = 1 << 15;
/// Bytes that are read of a program's file for its section headers and symbols, and 64 for each
/// piece: enough for the tables of large programs.
pub(crate) const FILE_BYTES: u64 = 96 << 20;
/// Bytes of a process's memory of which we ask whether they are in memory.
pub(crate) const RESIDENT_BYTES: u64 = 1 << 30;

/// Bytes of an agent's description of itself. The agent's heap, which holds it, has 4 MiB.
pub const SNAPSHOT_BYTES: u64 = 4 << 20;
/// Bytes of one text of an agent: names, paths, reasons.
pub const TEXT: usize = 64 << 10;
/// Ranges of code in an agent's plan: one for each part of a replaced function in each module.
pub const PLAN_RANGES: u64 = 1 << 14;
/// Images of patches in one process.
pub const IMAGES: usize = 1 << 14;

/// How long a command may look at a process to find out whether the user means it.
pub const LOOK_TIME: Duration = Duration::from_secs(1);
/// How long undoing may take when the time of a command is up. `--timeout` holds with a second
/// more.
pub(crate) const GRACE: Duration = Duration::from_millis(700);
/// The time of a wait or a call when the time of a command is up: a command with no time succeeds
/// if it has to wait for nothing.
pub(crate) const SHORTEST_WAIT: Duration = Duration::from_millis(250);

/// A process shows more of something than we read of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("process {pid} shows more {what} than the {limit} that engraft reads of one process")]
pub struct BeyondLimit {
    /// The process.
    pub pid: i32,
    /// What there is more of.
    pub what: &'static str,
    /// How many are read.
    pub limit: u64,
}

/// How much may still be read for one purpose, by several reads together.
#[derive(Debug)]
pub(crate) struct Budget {
    beyond: BeyondLimit,
    left: Cell<u64>,
    is_exceeded: Cell<bool>,
}

/// The least cost of a read: the system call, and memory for the result.
const READ_COST: u64 = 256;

impl Budget {
    pub(crate) fn new(pid: i32, what: &'static str, limit: u64) -> Self {
        Self {
            beyond: BeyondLimit { pid, what, limit },
            left: Cell::new(limit),
            is_exceeded: Cell::new(false),
        }
    }

    /// Takes `bytes` from the budget.
    pub(crate) fn take(&self, bytes: u64) -> Result<(), BeyondLimit> {
        let left = self.left.get().checked_sub(bytes.max(READ_COST));
        self.is_exceeded
            .set(self.is_exceeded.get() || left.is_none());
        self.left.set(left.ok_or(self.beyond)?);
        Ok(())
    }

    /// An error if a read was refused: the result is not complete then.
    pub(crate) fn check(&self) -> Result<(), BeyondLimit> {
        match self.is_exceeded.get() {
            true => Err(self.beyond),
            false => Ok(()),
        }
    }
}

/// An error if the count is beyond the limit.
pub(crate) fn within(
    pid: i32,
    what: &'static str,
    count: usize,
    limit: usize,
) -> Result<(), BeyondLimit> {
    match count > limit {
        true => Err(BeyondLimit {
            pid,
            what,
            limit: limit as u64,
        }),
        false => Ok(()),
    }
}
