//! Memory of the target for telling the agent about threads.

use engraft_abi::BehindThread;
use engraft_process::{Process, TargetAddress};
use zerocopy::IntoBytes;

use crate::error::Error;
use crate::session::Session;

/// Size of the number of threads, which comes first.
const COUNT: usize = size_of::<u64>();
/// Size of what is said of each.
const RECORD: usize = size_of::<BehindThread>();

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
                capacity: (bytes - COUNT) / RECORD,
            })
        };
        let (scratch, length) = session.agent.scratch();
        let size = COUNT + wanted * RECORD;
        if size <= length {
            return with(scratch, length);
        }
        session.with_memory(&vec![0; size], |memory| {
            let [address, length] = memory.arguments();
            with(address.into(), length as usize)
        })
    }

    /// For one thread, by whoever has the session.
    pub(crate) fn of_one(session: &Session<'p>) -> Self {
        Self {
            process: session.process,
            address: session.agent.scratch().0,
            capacity: 1,
        }
    }

    /// Writes the list that the agent reads.
    pub(crate) fn write(&self, threads: &[BehindThread]) -> Result<(), Error> {
        let mut bytes = (threads.len() as u64).to_ne_bytes().to_vec();
        bytes.extend(threads.as_bytes());
        Ok(self.process.memory().write(self.address, &bytes)?)
    }
}
