//! Memory of the target for telling the agent about threads.

use engraft_process::{Process, TargetAddress};

use crate::error::Error;
use crate::session::Session;

/// Size of a thread pointer.
const WORD: usize = size_of::<u64>();

/// Room for threads that are born after they were counted.
const SPARE_THREADS: usize = 64;

/// Memory of the target for a list of threads.
pub(crate) struct ThreadList<'p> {
    process: &'p Process,
    pub(crate) address: TargetAddress,
    /// How many threads it has room for.
    pub(crate) capacity: usize,
}

impl<'p> ThreadList<'p> {
    /// With room for all threads, and some more. For a few the agent itself has room; it is written while all
    /// threads are held, so by one controller at a time.
    pub(crate) fn with<R>(
        session: &Session<'p>,
        work: impl FnOnce(&ThreadList<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let process = session.process;
        let threads = process.threads().map_err(Error::looking_at(process))?;
        let wanted = threads.len() * 2 + SPARE_THREADS;
        let with = |address, bytes| {
            work(&ThreadList {
                process,
                address,
                capacity: bytes / WORD - 1,
            })
        };
        let (scratch, length) = session.agent.scratch();
        if (wanted + 1) * WORD <= length {
            return with(scratch, length);
        }
        session.with_memory(&vec![0; (wanted + 1) * WORD], |memory| {
            let [address, length] = memory.arguments();
            with(address.into(), length as usize)
        })
    }

    /// Writes the list that the agent reads.
    pub(crate) fn write(&self, pointers: &[u64]) -> Result<(), Error> {
        let words = std::iter::once(pointers.len() as u64).chain(pointers.iter().copied());
        let bytes: Vec<u8> = words.flat_map(u64::to_ne_bytes).collect();
        Ok(self.process.memory().write(self.address, &bytes)?)
    }
}
