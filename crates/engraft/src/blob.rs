//! The agent as bytes, and what it looks like in a target's memory.

use object::elf::{PF_W, PF_X, PT_LOAD, R_X86_64_RELATIVE};
use object::read::elf::{ElfFile64, ProgramHeader};
use object::{LittleEndian, Object, ObjectSymbol};

/// Made by the build script from the crate engraft-agent.
static BLOB: &[u8] = include_bytes!(env!("ENGRAFT_AGENT_BLOB"));

const PAGE: u64 = 4096;

/// The embedded agent is not what it must be; a build of engraft that has this error never worked.
#[derive(Debug, thiserror::Error)]
#[error("the embedded agent is damaged: {0}")]
pub struct BadBlob(&'static str);

/// Protection of a piece of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protection {
    /// Constants.
    Read,
    /// Code.
    ReadExecute,
    /// Variables.
    ReadWrite,
}

/// A piece of the agent, in whole pages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    /// From the start of the blob's memory, in bytes.
    pub offset: u64,
    /// In bytes.
    pub length: u64,
    /// How it is to be mapped.
    pub protection: Protection,
}

/// The agent, ready to be put at some address.
pub(crate) struct Blob {
    /// The pieces, at increasing offsets.
    pub segments: Vec<Segment>,
    /// Size of the whole in bytes.
    pub length: u64,
    /// Offset of the entry for remote calls.
    pub enter: u64,
    /// Offset of the code that a remote call returns to.
    pub restorer: u64,
    /// Offset of the loader hook.
    pub hook: u64,
    content: Vec<u8>,
    /// Places of 64-bit words that hold addresses, and the offsets that these addresses have.
    relocations: Vec<(usize, u64)>,
}

impl Blob {
    /// The embedded agent.
    pub(crate) fn embedded() -> Result<Self, BadBlob> {
        let broken = |_| BadBlob("it is not an ELF file");
        let file = ElfFile64::<LittleEndian>::parse(BLOB).map_err(broken)?;
        let endian = LittleEndian;
        let mut segments = Vec::new();
        let mut content = Vec::new();
        for header in file.elf_program_headers() {
            if header.p_type(endian) != PT_LOAD {
                continue;
            }
            let start = header.p_vaddr(endian);
            let end = start + header.p_memsz(endian);
            let protection = match (header.p_flags(endian) & PF_W, header.p_flags(endian) & PF_X) {
                (0, 0) => Protection::Read,
                (0, _) => Protection::ReadExecute,
                (_, 0) => Protection::ReadWrite,
                _ => return Err(BadBlob("a segment is writable and executable")),
            };
            content.resize(end.next_multiple_of(PAGE) as usize, 0);
            let data = header
                .data(endian, BLOB)
                .map_err(|()| BadBlob("it is truncated"))?;
            content
                .get_mut(start as usize..)
                .and_then(|rest| rest.get_mut(..data.len()))
                .ok_or(BadBlob("a segment does not fit"))?
                .copy_from_slice(data);
            let offset = start & !(PAGE - 1);
            let length = end.next_multiple_of(PAGE) - offset;
            segments.push(Segment {
                offset,
                length,
                protection,
            });
        }
        let symbol = |name| {
            let found = file
                .dynamic_symbols()
                .find(|symbol| symbol.name() == Ok(name));
            found
                .map(|symbol| symbol.address())
                .ok_or(BadBlob("an entry point is missing"))
        };
        Ok(Self {
            length: content.len() as u64,
            enter: symbol("engraft_agent_enter")?,
            restorer: symbol("engraft_agent_restorer")?,
            hook: symbol("engraft_agent_hook")?,
            relocations: relocations(&file)?,
            segments,
            content,
        })
    }

    /// The blob's memory when it lies at `base`.
    pub(crate) fn at(&self, base: u64) -> Vec<u8> {
        let mut content = self.content.clone();
        for &(place, value) in &self.relocations {
            if let Some(word) = content.get_mut(place..place + 8) {
                word.copy_from_slice(&(base + value).to_le_bytes());
            }
        }
        content
    }
}

fn relocations(file: &ElfFile64<'_, LittleEndian>) -> Result<Vec<(usize, u64)>, BadBlob> {
    let Some(all) = file.dynamic_relocations() else {
        return Ok(Vec::new());
    };
    all.map(|(place, relocation)| {
        let relative = object::RelocationFlags::Elf {
            r_type: R_X86_64_RELATIVE,
        };
        if relocation.flags() != relative {
            return Err(BadBlob("a relocation is not relative"));
        }
        Ok((place as usize, relocation.addend() as u64))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_needs_nothing_from_outside_and_is_small() {
        let blob = Blob::embedded().unwrap();
        assert!(
            blob.segments
                .windows(2)
                .all(|pair| pair[0].offset + pair[0].length <= pair[1].offset)
        );
        assert!(blob.length < 128 * 1024, "{} bytes", blob.length);
        let (here, there) = (blob.at(0x10_0000), blob.at(0x20_0000));
        let different = here.iter().zip(&there).filter(|(a, b)| a != b).count();
        assert!(different <= 8 * blob.relocations.len());
    }
}
