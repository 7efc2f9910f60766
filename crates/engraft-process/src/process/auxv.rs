//! The auxiliary vector: what the kernel told the program at its start.

use crate::sys::address::TargetAddress;

/// `/proc/PID/auxv`, parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AuxiliaryVector {
    entries: Vec<(u64, u64)>,
    word_size: Option<WordSize>,
}

/// The word size of the program that the kernel started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WordSize {
    /// 8 bytes.
    Bits64,
    /// Anything else.
    Other,
}

/// The size of a 64-bit ELF program header, as `AT_PHENT` announces it.
const PROGRAM_HEADER_SIZE: u64 = 56;
/// `AT_PHENT` of a 32-bit program and its value, in the 32-bit words of such a program's vector.
const HEADER_SIZE_32: [u8; 8] = [libc::AT_PHENT as u8, 0, 0, 0, 32, 0, 0, 0];

impl AuxiliaryVector {
    /// Parses pairs of words up to the terminating `AT_NULL`.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let word = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).ok();
        let entries: Vec<_> = bytes
            .chunks_exact(16)
            .filter_map(|pair| Some((word(&pair[..8])?, word(&pair[8..])?)))
            .take_while(|(key, _)| *key != 0)
            .collect();
        let announced = entries.iter().find(|(key, _)| *key == libc::AT_PHENT);
        let is_32_bit = || bytes.chunks_exact(8).any(|pair| pair == HEADER_SIZE_32);
        let word_size = match announced {
            Some((_, PROGRAM_HEADER_SIZE)) => Some(WordSize::Bits64),
            Some(_) => Some(WordSize::Other),
            None => is_32_bit().then_some(WordSize::Other),
        };
        Self { entries, word_size }
    }

    fn get(&self, key: u64) -> Option<u64> {
        let found = self.entries.iter().find(|(entry, _)| *entry == key);
        found.map(|(_, value)| *value)
    }

    /// The word size of the program that the kernel started; `None` if the vector does not say it
    /// yet: the kernel fills the vector entry by entry while it loads a program (exec).
    pub(crate) fn word_size(&self) -> Option<WordSize> {
        self.word_size
    }

    /// The address and the number of the program headers of what the kernel started.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A vector of 64-bit words, as the kernel has it while it fills it: zeros follow.
    fn vector(entries: &[(u64, u64)]) -> AuxiliaryVector {
        let words = entries.iter().flat_map(|(key, value)| [*key, *value]);
        let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        bytes.resize(336, 0);
        AuxiliaryVector::parse(&bytes)
    }

    #[test]
    fn a_vector_that_is_being_filled_is_not_of_another_architecture() {
        let whole = [
            (libc::AT_SYSINFO_EHDR, 0x7ffd_1234_5000),
            (libc::AT_HWCAP, 0x1f8b_fbff),
            (libc::AT_PAGESZ, 4096),
            (libc::AT_PHDR, 0x5555_5555_4040),
            (libc::AT_PHENT, 56),
            (libc::AT_PHNUM, 13),
        ];
        for written in 0..4 {
            assert_eq!(vector(&whole[..written]).word_size(), None, "{written}");
        }
        assert_eq!(vector(&whole).word_size(), Some(WordSize::Bits64));
    }

    #[test]
    fn another_architecture_is_told_by_the_size_of_its_headers() {
        let other = vector(&[(libc::AT_PHENT, 64)]);
        assert_eq!(other.word_size(), Some(WordSize::Other));
        // A 32-bit program: AT_SYSINFO, AT_PHDR, AT_PHENT.
        let words: [u32; 6] = [32, 0xf7fc_9560, 3, 0x0804_8034, 4, 32];
        let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        let vector = AuxiliaryVector::parse(&bytes);
        assert_eq!(vector.word_size(), Some(WordSize::Other));
    }
}
