//! A cache of the memory of a stopped process, by pages.

use std::cell::RefCell;
use std::collections::HashMap;

use engraft_machine::PAGE_SIZE;

use crate::memory::access::{Memory, MemoryError};
use crate::process::limits::{Budget, WALK_BYTES};
use crate::sys::address::TargetAddress;

/// Pages that have been read. A stack walk reads many single words of few pages; with the cache it
/// makes one system call per page. A page is never read again, so the cache must not outlive the
/// stop.
#[derive(Debug)]
pub(crate) struct PageCache<'p> {
    memory: Memory<'p>,
    pages: RefCell<HashMap<TargetAddress, Box<[u8]>>>,
    budget: Budget,
}

impl<'p> PageCache<'p> {
    pub(crate) fn new(memory: Memory<'p>) -> Self {
        Self {
            memory,
            pages: RefCell::default(),
            budget: Budget::new(memory.process().pid(), "bytes of stacks", WALK_BYTES),
        }
    }

    /// Fills the buffer from `address` on.
    pub(crate) fn read(
        &self,
        address: TargetAddress,
        buffer: &mut [u8],
    ) -> Result<(), MemoryError> {
        let mut done = 0;
        while done < buffer.len() {
            let at = address + done as u64;
            let page = at.align_down(PAGE_SIZE);
            let mut pages = self.pages.borrow_mut();
            let bytes = match pages.entry(page) {
                std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::hash_map::Entry::Vacant(entry) => {
                    self.budget.take(PAGE_SIZE)?;
                    let bytes = self.memory.read_bytes(page, PAGE_SIZE, PAGE_SIZE)?;
                    entry.insert(bytes.into_boxed_slice())
                }
            };
            let rest = bytes.get((at - page) as usize..).unwrap_or_default();
            let part = buffer.get_mut(done..).unwrap_or_default();
            let length = rest.len().min(part.len());
            part[..length].copy_from_slice(&rest[..length]);
            done += length;
        }
        Ok(())
    }

    /// Reads exactly `N` bytes.
    pub(crate) fn read_array<const N: usize>(
        &self,
        address: TargetAddress,
    ) -> Result<[u8; N], MemoryError> {
        let mut bytes = [0; N];
        self.read(address, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads a word.
    pub(crate) fn read_u64(&self, address: TargetAddress) -> Result<u64, MemoryError> {
        self.read_array(address).map(u64::from_le_bytes)
    }
}
