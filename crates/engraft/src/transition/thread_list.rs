//! The list of blocked threads that the agent reads, in memory of the target.

use engraft_abi::ThreadRecord;
use engraft_process::{Process, TargetAddress};
use zerocopy::IntoBytes;

use crate::error::Error;
use crate::session::Session;
use crate::session::target_memory::TargetMemory;

/// Size of the number of records, which comes first.
const COUNT: usize = size_of::<u64>();
/// Size of a record.
const RECORD: usize = size_of::<ThreadRecord>();

/// Room for threads that are born after they were counted.
const SPARE_THREADS: usize = 64;

/// Memory of the target for a list of threads.
pub(super) struct ThreadList<'p> {
    process: &'p Process,
    pub(super) address: TargetAddress,
    /// The number of threads that it has room for.
    pub(super) capacity: usize,
}

impl<'p> ThreadList<'p> {
    /// Calls `work` with a list that has room for all threads, and for some that are born
    /// meanwhile. The agent's scratch memory has room for a few threads; no other controller writes
    /// to it, because all threads are stopped when the list is written.
    pub(super) fn with<R>(
        session: &Session<'p>,
        work: impl FnOnce(&ThreadList<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let process = session.process;
        let threads = process.threads().map_err(Error::reading(process))?;
        let wanted = threads.len() * 2 + SPARE_THREADS;
        let with = |address, bytes| {
            work(&ThreadList {
                process,
                address,
                capacity: (bytes - COUNT) / RECORD,
            })
        };
        let (scratch, length) = session.agent.scratch();
        let size = COUNT + wanted * RECORD;
        if size <= length {
            return with(scratch, length);
        }
        TargetMemory::with(session, &vec![0; size], |memory| {
            let [address, length] = memory.arguments();
            with(address.into(), length as usize)
        })
    }

    /// A list with room for one thread, in the agent's scratch memory.
    pub(super) fn of_one(session: &Session<'p>) -> Self {
        Self {
            process: session.process,
            address: session.agent.scratch().0,
            capacity: 1,
        }
    }

    /// Writes the list.
    pub(super) fn write(&self, threads: &[ThreadRecord]) -> Result<(), Error> {
        let mut bytes = (threads.len() as u64).to_ne_bytes().to_vec();
        bytes.extend(threads.as_bytes());
        Ok(self.process.memory().write(self.address, &bytes)?)
    }
}
