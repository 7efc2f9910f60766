//! How the readers of `engraft-elf` read a process.

use engraft_elf::{Error, ReadMemory, Window};

use crate::memory::access::{Memory, MemoryError};
use crate::process::limits::BeyondLimit;
use crate::sys::address::TargetAddress;

impl ReadMemory for Memory<'_> {
    type Error = MemoryError;

    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), MemoryError> {
        Memory::read(self, address.into(), buffer)
    }
}

/// What an error of a reader is to those who read a process.
pub(crate) fn memory_error(memory: Memory<'_>, error: Error<MemoryError>) -> MemoryError {
    match error {
        Error::Memory(error) => error,
        Error::TooLong {
            address,
            length,
            limit,
        } => MemoryError::TooMuch {
            address: address.into(),
            length,
            limit,
        },
        Error::Endless { list, limit } => MemoryError::Beyond(BeyondLimit {
            pid: memory.process().pid(),
            what: list.name(),
            limit: limit as u64,
        }),
    }
}

/// Reads a table in one piece, and takes what `take` makes of it. Each read is a system call.
pub(crate) fn in_one_piece<'p, T>(
    memory: Memory<'p>,
    address: u64,
    length: u64,
    take: impl FnOnce(&Window<'_, Memory<'p>>) -> Result<T, Error<MemoryError>>,
) -> Result<T, MemoryError> {
    let bytes = memory.read_bytes(TargetAddress::new(address), length, length)?;
    let window = Window::new(address, &bytes, &memory);
    take(&window).map_err(|error| memory_error(memory, error))
}
