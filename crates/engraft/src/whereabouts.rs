//! Where in a process an agent is, or what is left of one that did not come to life.
//!
//! Its memory has a name in /proc/PID/maps if it maps a memory file, or if the kernel can name other memory
//! (CONFIG_ANON_VMA_NAME, Linux 5.17). Where neither is so, it is found by what is in it: a [`Landmark`] at the
//! start of private memory without a file that may only be read. Few programs have such memory at all, so for
//! nearly every process the memory map says that there is no agent, and nothing else is read.

use std::ops::Range;

use engraft_abi::{AGENT_MAPPING_NAME, LANDMARK_MAGIC, Landmark};
use engraft_process::{Mapping, MemoryError, Process, TargetAddress};
use zerocopy::{FromZeros, IntoBytes};

use crate::error::Error;

/// The ranges of memory that are an agent's; an agent's control block is at the start of one.
pub(crate) fn whereabouts(process: &Process) -> Result<Vec<Range<TargetAddress>>, Error> {
    let mut ranges = Vec::new();
    for mapping in &process.maps()? {
        if is_named(mapping) {
            ranges.push(mapping.range.clone());
        } else if may_start_with_landmark(mapping) {
            ranges.extend(marked(process, mapping.range.start)?);
        }
    }
    Ok(ranges)
}

/// By the kernel's words for a memory file and for anonymous memory. A file of the program's own may lie in a directory
/// that is called like us.
fn is_named(mapping: &Mapping) -> bool {
    let name = mapping.name.to_string_lossy();
    let name = name.strip_prefix("/memfd:").or(name.strip_prefix("[anon:"));
    name.is_some_and(|name| name.starts_with(AGENT_MAPPING_NAME))
}

fn may_start_with_landmark(mapping: &Mapping) -> bool {
    let only_readable = mapping.readable && !mapping.writable && !mapping.executable;
    only_readable && !mapping.shared && !mapping.has_file() && mapping.name.is_empty()
}

/// The range that the landmark at this address tells of, if there is one.
fn marked(process: &Process, at: TargetAddress) -> Result<Option<Range<TargetAddress>>, Error> {
    let mut landmark = Landmark::new_zeroed();
    match process.memory().read(at, landmark.as_mut_bytes()) {
        // It has gone since.
        Err(MemoryError::Unmapped { .. }) => return Ok(None),
        read => read?,
    }
    let Landmark {
        magic,
        address,
        control,
        length,
    } = landmark;
    let end = control.checked_add(length);
    let holds_it = end.is_some_and(|end| (control..end).contains(&address));
    let is_one = magic == LANDMARK_MAGIC && at == TargetAddress::new(address) && holds_it;
    Ok(is_one.then(|| TargetAddress::new(control).range(length)))
}
