//! The seal: what makes any flipped byte and any missing tail visible.
//!
//! It is the first section, so it stands right after the ELF header. There it is found without
//! trusting anything else in the file. Its layout is the same in all format versions, so that a
//! newer file is called newer and not damaged. All numbers are little-endian.

use sha2::{Digest as _, Sha256};

use super::ReadError;

/// Offset of the seal: the size of an ELF64 header.
const OFFSET: usize = 64;
const MAGIC: &[u8; 8] = b"ENGRAFT\0";
const VERSION: usize = OFFSET + MAGIC.len();
/// Four bytes of zeroes stand between version and length, so that the length is aligned.
const LENGTH: usize = VERSION + 8;
const DIGEST: usize = LENGTH + 8;
const END: usize = DIGEST + 32;

pub(super) const SECTION: &str = ".engraft.seal";
const ELF_MAGIC: &[u8; 4] = b"\x7fELF";

/// An open seal: what the section holds before the rest of the file is known.
pub(super) fn blank(version: u32) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&version.to_le_bytes());
    bytes.resize(END - OFFSET, 0);
    bytes
}

/// Writes length and digest into a finished file; `None` if its seal is not where it belongs.
pub(super) fn close(file: &mut [u8]) -> Option<()> {
    if field(file, OFFSET)? != *MAGIC {
        return None;
    }
    let length = u64::try_from(file.len()).ok()?.to_le_bytes();
    file.get_mut(LENGTH..DIGEST)?.copy_from_slice(&length);
    let digest = digest(file)?;
    file.get_mut(DIGEST..END)?.copy_from_slice(&digest);
    Some(())
}

/// Checks that the file is a patch file and whole. Returns its format version.
pub(super) fn verify(file: &[u8]) -> Result<u32, ReadError> {
    if !file.starts_with(ELF_MAGIC) {
        return Err(ReadError::NotElf);
    }
    let truncated = |expected: usize| ReadError::Truncated {
        found: file.len() as u64,
        expected: expected as u64,
    };
    let magic: [u8; 8] = field(file, OFFSET).ok_or(truncated(END))?;
    if &magic != MAGIC {
        return Err(ReadError::NotAPatch { missing: SECTION });
    }
    let expected = u64::from_le_bytes(field(file, LENGTH).ok_or(truncated(END))?);
    let stored: [u8; 32] = field(file, DIGEST).ok_or(truncated(END))?;
    let found = file.len() as u64;
    if found < expected {
        return Err(ReadError::Truncated { found, expected });
    }
    let computed = digest(file).ok_or(truncated(END))?;
    if found > expected || stored != computed {
        return Err(ReadError::Damaged {
            expected: hex(&stored),
            found: hex(&computed),
        });
    }
    Ok(u32::from_le_bytes(
        field(file, VERSION).ok_or(truncated(END))?,
    ))
}

/// SHA-256 over the whole file, the digest itself taken as zeroes.
fn digest(file: &[u8]) -> Option<[u8; 32]> {
    let mut hasher = Sha256::new();
    hasher.update(file.get(..DIGEST)?);
    hasher.update([0; 32]);
    hasher.update(file.get(END..)?);
    Some(hasher.finalize().into())
}

fn field<const N: usize>(file: &[u8], offset: usize) -> Option<[u8; N]> {
    file.get(offset..offset.checked_add(N)?)?.try_into().ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
