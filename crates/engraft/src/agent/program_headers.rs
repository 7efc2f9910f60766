//! Where the program headers of a module are in memory.

use engraft_process::{Module, Process, TargetAddress};

use crate::error::Error;

/// The address of the program headers of a module in memory.
pub(crate) fn program_headers(process: &Process, program: &Module) -> Result<TargetAddress, Error> {
    use object::elf::{PT_LOAD, PT_PHDR};
    const E_PHOFF: u64 = 32;
    if let Some(header) = program
        .program_headers
        .iter()
        .find(|header| header.kind == PT_PHDR.0)
    {
        return Ok(program.address(header.address));
    }
    let first = program
        .program_headers
        .iter()
        .find(|header| header.kind == PT_LOAD.0 && header.offset == 0)
        .ok_or(Error::NoProgram { pid: process.pid() })?;
    let start = program.address(first.address);
    Ok(start + process.memory().read_u64(start + E_PHOFF)?)
}
