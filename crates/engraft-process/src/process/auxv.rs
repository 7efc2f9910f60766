//! The auxiliary vector: what the kernel told the program at its start.

use crate::sys::address::TargetAddress;

/// `/proc/PID/auxv`, parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AuxiliaryVector {
    entries: Vec<(u64, u64)>,
}

/// The size of a 64-bit ELF program header, as `AT_PHENT` announces it.
const PROGRAM_HEADER_SIZE: u64 = 56;

impl AuxiliaryVector {
    /// Reads pairs of words up to the terminating `AT_NULL`.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let word = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).ok();
        let entries = bytes
            .chunks_exact(16)
            .filter_map(|pair| Some((word(&pair[..8])?, word(&pair[8..])?)))
            .take_while(|(key, _)| *key != 0)
            .collect();
        Self { entries }
    }

    fn get(&self, key: u64) -> Option<u64> {
        let found = self.entries.iter().find(|(entry, _)| *entry == key);
        found.map(|(_, value)| *value)
    }

    /// Did the kernel start a 64-bit program?
    pub(crate) fn is_64_bit(&self) -> bool {
        self.get(libc::AT_PHENT) == Some(PROGRAM_HEADER_SIZE)
    }

    /// The program headers of what the kernel started, and their number.
    pub(crate) fn program_headers(&self) -> Option<(TargetAddress, u64)> {
        Some((self.get(libc::AT_PHDR)?.into(), self.get(libc::AT_PHNUM)?))
    }

    /// The entry point of what the kernel started.
    pub(crate) fn entry(&self) -> Option<TargetAddress> {
        self.get(libc::AT_ENTRY).map(TargetAddress::new)
    }

    /// The load address of the program interpreter (the dynamic loader), if the kernel loaded one.
    pub(crate) fn interpreter(&self) -> Option<TargetAddress> {
        let base = self.get(libc::AT_BASE).map(TargetAddress::new);
        base.filter(|base| !base.is_null())
    }

    /// The ELF header of the vDSO.
    pub(crate) fn vdso(&self) -> Option<TargetAddress> {
        self.get(libc::AT_SYSINFO_EHDR).map(TargetAddress::new)
    }
}
