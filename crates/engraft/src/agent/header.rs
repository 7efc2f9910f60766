//! Where in a process an agent is, or what is left of one that did not come to life.
//!
//! Its memory has a name in /proc/PID/maps if it maps a memory file, or if the kernel can name other memory
//! (CONFIG_ANON_VMA_NAME, Linux 5.17). Where neither is so, it is found by what is in it: an [`AgentHeader`] at the
//! start of private memory without a file that may not be written. Few programs have such memory at all, so for
//! nearly every process the memory map says that there is no agent, and nothing else is read. Between the instant at
//! which it is mapped and the one at which the agent header is there, it is found by its form.

use std::ops::Range;
use std::sync::OnceLock;

use engraft_abi::{AGENT_HEADER_MAGIC, AGENT_MAPPING_NAME, AgentHeader, MAPPING_LENGTH};
use engraft_process::{Mapping, MemoryError, Process, TargetAddress};
use rustix::fs::{MemfdFlags, fstat, major, memfd_create, minor};
use zerocopy::{FromZeros, IntoBytes};

use crate::error::Error;

/// The ranges of memory that are an agent's; an agent's control block is at the start of one.
pub(crate) fn whereabouts(process: &Process) -> Result<Vec<Range<TargetAddress>>, Error> {
    let mut ranges = Vec::new();
    for mapping in &process.maps()? {
        if is_named(mapping) {
            ranges.push(mapping.range.clone());
        } else if may_start_with_header(mapping) {
            ranges.extend(marked(process, mapping.range.start)?);
        }
    }
    Ok(ranges)
}

/// The ranges of memory that were to be an agent's, and that nothing has been written to yet.
pub(crate) fn reservations(process: &Process) -> Result<Vec<Range<TargetAddress>>, Error> {
    let mut ranges = Vec::new();
    for mapping in &process.maps()? {
        if is_reservation(process, mapping)? {
            ranges.push(mapping.range.clone());
        }
    }
    Ok(ranges)
}

/// By the kernel's words for a memory file and for anonymous memory. A file of the program's own may have the same name,
/// but does not lie where memory files do.
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

/// The device that all memory files are on; `None` if this process may not make one.
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

/// Executable memory that is not code, because there are only zeros.
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
    let mut start = [0; 4096];
    match process.memory().read(range.start, &mut start) {
        // It has gone since.
        Err(MemoryError::Unmapped { .. }) => return Ok(false),
        read => read?,
    }
    Ok(start.iter().all(|byte| *byte == 0))
}

/// The range that the agent header at this address tells of, if there is one.
fn marked(process: &Process, at: TargetAddress) -> Result<Option<Range<TargetAddress>>, Error> {
    let mut header = AgentHeader::new_zeroed();
    match process.memory().read(at, header.as_mut_bytes()) {
        // It has gone since.
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
