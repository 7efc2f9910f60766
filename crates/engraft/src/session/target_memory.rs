//! Memory of the target that the controller has for a while, for data that the agent is to read.

use std::cell::Cell;

use engraft_abi::Command;
use engraft_process::{Process, TargetAddress};

use super::Session;
use crate::error::Error;

/// Memory of the target that the agent has allocated for the controller.
pub(crate) struct TargetMemory<'p> {
    process: &'p Process,
    address: TargetAddress,
    length: u64,
    handed_over: Cell<bool>,
}

impl<'p> TargetMemory<'p> {
    /// Allocates memory of the target with this content, for as long as `work` takes. Memory that
    /// `work` has handed over to the agent is not freed.
    pub(crate) fn with<R>(
        session: &Session<'p>,
        content: &[u8],
        work: impl FnOnce(&TargetMemory<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let length = content.len() as u64;
        let answer = session.command(Command::Allocate, [length, 0])?;
        let memory = TargetMemory {
            process: session.process,
            address: TargetAddress::new(answer.done(session.pid())?.value),
            length,
            handed_over: Cell::new(false),
        };
        let result = memory.write(content).and_then(|()| work(&memory));
        if memory.handed_over.get() || !session.process.is_alive() {
            return result;
        }
        let freed = session.command(Command::Free, memory.arguments());
        let freed = freed.and_then(|answer| answer.done(session.pid()).map(drop));
        match result {
            Ok(result) => freed.map(|()| result),
            Err(error) => Err(error.with_undo(freed)),
        }
    }

    /// From now on the memory is the agent's.
    pub(crate) fn hand_over(&self) {
        self.handed_over.set(true);
    }

    /// Address and length, as the arguments of a command.
    pub(crate) fn arguments(&self) -> [u64; 2] {
        [self.address.get(), self.length]
    }

    fn write(&self, content: &[u8]) -> Result<(), Error> {
        Ok(self.process.memory().write(self.address, content)?)
    }
}
