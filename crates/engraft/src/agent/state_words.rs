//! The words that say which threads have yet to switch: they change while the program runs.

use engraft_abi::{STATE_HAS_DOOR, SnapshotWaiting};
use engraft_process::{Process, TargetAddress};

use crate::error::Error;

/// The addresses of the words that hold the state of threads, for the threads that were pending
/// when the agent last carried out a command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StateWords {
    /// Address of the state of all threads that are not listed.
    pub(crate) others: u64,
    /// Thread pointers, and the addresses of these threads' own states.
    pub(crate) threads: Vec<SnapshotWaiting>,
}

/// A thread that has yet to switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PendingThread {
    /// Its thread pointer.
    pub(crate) pointer: u64,
    /// Whether it has a door: it switches by itself as soon as it has left.
    pub(crate) has_door: bool,
}

impl StateWords {
    /// The threads that are still pending. No thread is stopped.
    pub(crate) fn pending(&self, process: &Process) -> Result<Vec<PendingThread>, Error> {
        let mut words = vec![[0_u8; 8]; self.threads.len() + 1];
        let threads = self.threads.iter().map(|thread| thread.state);
        let addresses = std::iter::once(self.others).chain(threads);
        let mut places: Vec<_> = addresses
            .zip(&mut words)
            .filter(|(address, _)| *address != 0)
            .map(|(address, word)| (TargetAddress::new(address), word.as_mut_slice()))
            .collect();
        process.memory().read_many(&mut places)?;
        let mut words = words.into_iter().map(u64::from_ne_bytes);
        let others = words.next().unwrap_or_default();
        let threads = self.threads.iter().zip(words);
        Ok(threads
            .filter(|(thread, word)| thread.state == 0 || *word != others)
            .map(|(thread, word)| PendingThread {
                pointer: thread.thread,
                has_door: word & STATE_HAS_DOOR != 0,
            })
            .collect())
    }
}
