//! Memory of the target for something that the agent is to read.

use std::cell::Cell;

use engraft_abi::Command;
use engraft_process::{Process, TargetAddress};

use crate::error::Error;
use crate::session::Session;

/// Memory of the target that is ours for a while.
pub(crate) struct TargetMemory<'p> {
    process: &'p Process,
    address: TargetAddress,
    length: u64,
    handed_over: Cell<bool>,
}

impl TargetMemory<'_> {
    /// The agent has taken it over.
    pub(crate) fn hand_over(&self) {
        self.handed_over.set(true);
    }

    /// Where it is and how long, as commands want it.
    pub(crate) fn arguments(&self) -> [u64; 2] {
        [self.address.get(), self.length]
    }

    /// Replaces what is in it by something that is not longer.
    pub(crate) fn write(&self, content: &[u8]) -> Result<(), Error> {
        Ok(self.process.memory().write(self.address, content)?)
    }
}

impl Session<'_> {
    /// Has memory of the target with something that the agent is to read, as long as `work` takes. What `work`
    /// hands over to the agent stays.
    pub(crate) fn with_memory<R>(
        &self,
        content: &[u8],
        work: impl FnOnce(&TargetMemory<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let length = content.len() as u64;
        let answer = self.command(Command::Allocate, [length, 0])?;
        let memory = TargetMemory {
            process: self.process,
            address: TargetAddress::new(answer.done(self.pid())?.value),
            length,
            handed_over: Cell::new(false),
        };
        let result = memory.write(content).and_then(|()| work(&memory));
        if memory.handed_over.get() || !self.process.is_alive() {
            return result;
        }
        let freed = self.command(Command::Free, memory.arguments());
        let freed = freed.and_then(|answer| answer.done(self.pid()).map(drop));
        match result {
            Ok(result) => freed.map(|()| result),
            Err(error) => Err(error.with_undo(freed)),
        }
    }
}
