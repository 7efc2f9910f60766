//! What names an object and a place in it, in every room: the builder writes both into the patch
//! file, the controller finds objects by them in a process, and the agent and the core keep them.

use core::fmt;

/// An address in an ELF file as its link editor assigned it (`st_value`, `p_vaddr`). Add the
/// module's load bias to get an address in a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct LinkAddress(pub u64);

/// The GNU build-id of an ELF file (`NT_GNU_BUILD_ID`), 1 to 32 bytes: what names an object.
///
/// The bytes after the last one are zero, so that comparing two build-ids compares their bytes, and
/// then their lengths.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BuildId {
    bytes: [u8; Self::MAXIMUM_LENGTH],
    length: u8,
}

impl BuildId {
    /// The longest build-id that is accepted, in bytes (`ld --build-id=0x...` allows any length;
    /// SHA-1, the default, has 20).
    pub const MAXIMUM_LENGTH: usize = 32;

    /// Takes the descriptor of a build-id note; `None` if it is empty or too long.
    #[must_use]
    pub fn new(descriptor: &[u8]) -> Option<Self> {
        let length = u8::try_from(descriptor.len())
            .ok()
            .filter(|length| *length != 0)?;
        let mut bytes = [0; Self::MAXIMUM_LENGTH];
        bytes
            .get_mut(..descriptor.len())?
            .copy_from_slice(descriptor);
        Some(Self { bytes, length })
    }

    /// Stands for a file without a build-id: a single zero byte.
    #[must_use]
    pub const fn zero() -> Self {
        Self {
            bytes: [0; Self::MAXIMUM_LENGTH],
            length: 1,
        }
    }

    /// The descriptor's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes
            .get(..usize::from(self.length))
            .unwrap_or_default()
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.as_bytes().iter();
        bytes.try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BuildId({self})")
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::format;

    use super::*;

    #[test]
    fn a_build_id_has_1_to_32_bytes() {
        assert_eq!(BuildId::new(&[]), None);
        assert_eq!(BuildId::new(&[1; 33]), None);
        for length in [1, 20, 32] {
            let bytes = &[0xa5; 32][..length];
            assert_eq!(BuildId::new(bytes).unwrap().as_bytes(), bytes);
        }
        assert_eq!(BuildId::new(&[0]), Some(BuildId::zero()));
    }

    #[test]
    fn build_ids_are_ordered_as_their_bytes() {
        let ids = [&[0][..], &[0, 0], &[0, 1], &[1], &[1, 0], &[2, 0]];
        let ids = ids.map(|bytes| BuildId::new(bytes).unwrap());
        assert!(ids.is_sorted_by(|left, right| left < right), "{ids:?}");
    }

    #[test]
    fn a_build_id_is_displayed_in_hex() {
        let id = BuildId::new(&[0x0a, 0xff]).unwrap();
        assert_eq!(format!("{id} {id:?}"), "0aff BuildId(0aff)");
    }
}
