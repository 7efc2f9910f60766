//! Writing to code: jumps at old functions' entries, and the bytes that they have replaced.

#![expect(unsafe_code, reason = "overwrites code and changes page protection")]

use engraft_abi::Outcome;
use engraft_machine::{PAGE_SIZE, page_start};

use crate::system::failure::Failure;
use crate::system::memory::bytes_mut;
use crate::system::{
    self, Errno, File, MAP_ANONYMOUS, MAP_PRIVATE, PROT_EXEC, PROT_READ, PROT_WRITE,
};

/// Replaces code.
///
/// # Safety
/// No thread may be executing these bytes, and a thread that executes them later must find valid
/// code.
pub(crate) unsafe fn write_code(address: u64, code: &[u8]) -> Result<(), Failure> {
    let through_file = File::own_memory().and_then(|memory| {
        // SAFETY: the caller allows these bytes to be replaced. The kernel writes through a
        // private copy of the page and leaves its protection alone.
        unsafe { memory.write_at(code, address) }
    });
    match through_file {
        Ok(()) => Ok(()),
        // There is no /proc, no descriptor is left, or the process may not open its own memory.
        // SAFETY: the caller's promise.
        Err(_) => unsafe { write_by_protection(address, code) },
    }
}

/// Writes without a file. It is the second choice, because the pages are not executable for a
/// moment.
///
/// # Safety
/// As for [`write_code`]; and nobody may execute anything in these pages meanwhile.
unsafe fn write_by_protection(address: u64, code: &[u8]) -> Result<(), Failure> {
    let denied = |errno| Failure::system_call(b"making code writable", errno);
    may_become_executable().map_err(|errno| {
        Failure::system_call(
            b"making written memory executable again (a W^X policy?)",
            errno,
        )
    })?;
    let start = page_start(address);
    let length = (address + code.len() as u64 - start).next_multiple_of(PAGE_SIZE) as usize;
    // SAFETY: nobody executes these pages now (the caller's promise).
    unsafe { system::protect(start, length, PROT_READ | PROT_WRITE) }.map_err(denied)?;
    // SAFETY: the pages are writable now and the caller allows the write.
    unsafe { bytes_mut(address, code.len()) }.copy_from_slice(code);
    // SAFETY: back to what code pages are.
    unsafe { system::protect(start, length, PROT_READ | PROT_EXEC) }.map_err(denied)
}

/// Finds out whether the kernel lets memory that was written become executable (PR_SET_MDWE,
/// SELinux). It tries with a page of the agent's own: on the target's code, a refusal could not be
/// undone.
fn may_become_executable() -> Result<(), Errno> {
    const PAGE: usize = PAGE_SIZE as usize;
    let flags = MAP_PRIVATE | MAP_ANONYMOUS;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let page = unsafe { system::map(0, PAGE, PROT_READ | PROT_WRITE, flags, None, 0) }?;
    // SAFETY: the page is ours and nobody accesses it.
    let answer = unsafe { system::protect(page, PAGE, PROT_READ | PROT_EXEC) };
    // SAFETY: the page is ours and nobody uses it.
    unsafe { system::unmap(page, PAGE) }?;
    answer
}

/// The error for a function from which a jump does not reach its new code.
pub(crate) fn out_of_reach() -> Failure {
    Failure::new(
        Outcome::NoRoom,
        b"the new code is farther than 2 GiB from the old function",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_written_either_way() {
        let flags = MAP_PRIVATE | MAP_ANONYMOUS;
        // SAFETY: a new mapping.
        let page = unsafe { system::map(0, 4096, PROT_READ | PROT_EXEC, flags, None, 0) }.unwrap();
        // SAFETY: nobody executes the page.
        assert!(unsafe { write_code(page, b"first") }.is_ok());
        assert_eq!(crate::system::memory::equals(page, b"first"), Ok(()));
        // SAFETY: nobody executes the page.
        assert!(unsafe { write_by_protection(page + 4090, b"second") }.is_ok());
        assert_eq!(
            crate::system::memory::equals(page + 4090, b"second"),
            Ok(())
        );
        // SAFETY: the page is ours.
        unsafe { system::unmap(page, 4096) }.unwrap();
    }
}
