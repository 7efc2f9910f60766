//! Finding an agent, or what is left of one that was not completed, in the memory of a process.
//!
//! Its memory has a name in /proc/PID/maps if it maps a memory file, or if the kernel can name
//! other memory (CONFIG_ANON_VMA_NAME, Linux 5.17). Otherwise it is found by its content: an agent
//! header at the start of private, read-only memory without a file. Few programs have such memory,
//! so for nearly every process the memory map alone says that there is no agent. Before the header
//! is written, the memory is found by its form: see [`reservations`].

use std::ops::Range;
use std::sync::OnceLock;

use engraft_abi::{AGENT_HEADER_MAGIC, AGENT_MAPPING_NAME, AgentHeader, MAPPING_LENGTH};
use engraft_machine::PAGE_SIZE;
use engraft_process::{Mapping, MemoryError, Process, TargetAddress};
use rustix::fs::{MemfdFlags, fstat, major, memfd_create, minor};
use zerocopy::{FromZeros, IntoBytes};

use crate::error::Error;

/// The ranges of memory that belong to an agent. Its control block is at the start of one of them.
pub(crate) fn agent_ranges(process: &Process) -> Result<Vec<Range<TargetAddress>>, Error> {
    let mut ranges = Vec::new();
    for mapping in &process.maps()? {
        if is_named(mapping) {
            ranges.push(mapping.range.clone());
        } else if may_start_with_header(mapping) {
            ranges.extend(range_of_header(process, mapping.range.start)?);
        }
    }
    Ok(ranges)
}

/// The ranges of memory that were mapped for an agent, and that nothing has been written to yet.
pub(crate) fn reservations(process: &Process) -> Result<Vec<Range<TargetAddress>>, Error> {
    let mut ranges = Vec::new();
    for mapping in &process.maps()? {
        if is_reservation(process, mapping)? {
            ranges.push(mapping.range.clone());
        }
    }
    Ok(ranges)
}

/// Whether the memory has the agent's name, as a memory file or as anonymous memory. Another file
/// may have the same name, but it is on another device.
fn is_named(mapping: &Mapping) -> bool {
    let name = mapping.name.to_string_lossy();
    let (major, minor, _) = mapping.file;
    let name = match mapping.has_file() {
        true if memory_file_device().is_some_and(|known| known != (major, minor)) => None,
        true => name.strip_prefix("/memfd:"),
        false => name.strip_prefix("[anon:"),
    };
    name.is_some_and(|name| name.starts_with(AGENT_MAPPING_NAME))
}

/// The device that all memory files are on; `None` if the controller cannot make one to find out.
pub(crate) fn memory_file_device() -> Option<(u32, u32)> {
    static DEVICE: OnceLock<Option<(u32, u32)>> = OnceLock::new();
    let find = || {
        let file = memfd_create(c"engraft", MemfdFlags::CLOEXEC).ok()?;
        let device = fstat(file).ok()?.st_dev;
        Some((major(device), minor(device)))
    };
    *DEVICE.get_or_init(find)
}

fn is_unnamed(mapping: &Mapping) -> bool {
    !mapping.shared && !mapping.has_file() && mapping.name.is_empty()
}

fn may_start_with_header(mapping: &Mapping) -> bool {
    mapping.readable && !mapping.writable && is_unnamed(mapping)
}

/// Whether the memory is mapped for an agent and still empty: executable memory of an agent's
/// length that holds only zeros, which is not code.
fn is_reservation(process: &Process, mapping: &Mapping) -> Result<bool, Error> {
    let range = &mapping.range;
    let has_form = mapping.readable
        && mapping.executable
        && !mapping.writable
        && is_unnamed(mapping)
        && range.end - range.start == MAPPING_LENGTH;
    if !has_form {
        return Ok(false);
    }
    let mut start = [0; PAGE_SIZE as usize];
    match process.memory().read(range.start, &mut start) {
        // It has been unmapped meanwhile.
        Err(MemoryError::Unmapped { .. }) => return Ok(false),
        read => read?,
    }
    Ok(start.iter().all(|byte| *byte == 0))
}

/// The agent's memory by the header at this address, if there is one.
fn range_of_header(
    process: &Process,
    at: TargetAddress,
) -> Result<Option<Range<TargetAddress>>, Error> {
    let mut header = AgentHeader::new_zeroed();
    match process.memory().read(at, header.as_mut_bytes()) {
        // It has been unmapped meanwhile.
        Err(MemoryError::Unmapped { .. }) => return Ok(None),
        read => read?,
    }
    let AgentHeader {
        magic,
        address,
        control,
        length,
    } = header;
    let end = control.checked_add(length);
    let holds_it = end.is_some_and(|end| (control..end).contains(&address));
    let is_one = magic == AGENT_HEADER_MAGIC && at == TargetAddress::new(address) && holds_it;
    Ok(is_one.then(|| TargetAddress::new(control).range(length)))
}
