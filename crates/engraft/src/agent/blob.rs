//! The blob: the agent's code and data as bytes, and as they are in a target's memory.

use engraft_machine::PAGE_SIZE;
use object::elf::{PF_W, PF_X, PT_LOAD, R_X86_64_RELATIVE, SHF_ALLOC};
use object::read::elf::{ElfFile64, ElfSection64, ProgramHeader};
use object::{LittleEndian, Object, ObjectSection, ObjectSymbol, SectionFlags};

use crate::error::BadBlob;

/// Made by the build script from the crate engraft-agent.
static BLOB: &[u8] = include_bytes!(env!("ENGRAFT_AGENT_BLOB"));

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
    /// Offset from the start of the blob's memory, in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
    /// The protection that it is mapped with.
    pub protection: Protection,
}

/// The agent, ready to be relocated to any address.
pub(crate) struct Blob {
    /// The pieces, at increasing offsets.
    pub segments: Vec<Segment>,
    /// The end of its variables, which come last. The rest of their page is free.
    pub end: u64,
    /// Offset of the entry for remote calls.
    pub enter: u64,
    /// Offset of the code that a remote call returns to.
    pub restorer: u64,
    /// Offset of the loader hook.
    pub hook: u64,
    /// Offset of the code that decides where calls go while a transition is on.
    pub dispatch: u64,
    content: Vec<u8>,
    /// Offsets of 64-bit words that hold addresses, and the offsets that these addresses are of.
    relocations: Vec<(usize, u64)>,
}

/// The end of the part of a segment that the agent needs at run time. Call frame information is not
/// needed. The compiler adds it even to code that never unwinds, as the last of the constants, and
/// each page of it would cost every target.
fn end_of_needed(file: &ElfFile64<'_, LittleEndian>, segment: std::ops::Range<u64>) -> u64 {
    let needed = |section: &ElfSection64<'_, '_, LittleEndian>| {
        let is_unwind = section
            .name()
            .is_ok_and(|name| name.starts_with(".eh_frame"));
        // A section that is not loaded (symbols and strings for tools) has the address 0, which is
        // in the first segment.
        let SectionFlags::Elf { sh_flags, .. } = section.flags() else {
            return false;
        };
        let is_loaded = sh_flags.contains(SHF_ALLOC);
        is_loaded && segment.contains(&section.address()) && section.size() > 0 && !is_unwind
    };
    let ends = file
        .sections()
        .filter(needed)
        .map(|section| section.address() + section.size());
    ends.max().unwrap_or(segment.end).min(segment.end)
}

impl Blob {
    /// The offsets of its code.
    pub(crate) fn text(&self) -> std::ops::Range<u64> {
        let mut segments = self.segments.iter();
        let text = segments.find(|segment| segment.protection == Protection::ReadExecute);
        text.map_or(0..0, |text| text.offset..text.offset + text.length)
    }

    /// The embedded agent.
    pub(crate) fn embedded() -> Result<Self, BadBlob> {
        let broken = |_| BadBlob("it is not an ELF file");
        let file = ElfFile64::<LittleEndian>::parse(BLOB).map_err(broken)?;
        let endian = LittleEndian;
        let mut segments: Vec<Segment> = Vec::new();
        let mut last = 0;
        let mut content = Vec::new();
        for header in file.elf_program_headers() {
            if header.p_type(endian) != PT_LOAD {
                continue;
            }
            let start = header.p_vaddr(endian);
            let end = end_of_needed(&file, start..start + header.p_memsz(endian));
            let flags = header.p_flags(endian);
            let protection = match (flags.contains(PF_W), flags.contains(PF_X)) {
                (false, false) => Protection::Read,
                (false, true) => Protection::ReadExecute,
                (true, false) => Protection::ReadWrite,
                (true, true) => return Err(BadBlob("a segment is writable and executable")),
            };
            content.resize(end.next_multiple_of(PAGE_SIZE) as usize, 0);
            let data = header
                .data(endian, BLOB)
                .map_err(|()| BadBlob("it is truncated"))?;
            let data = data.get(..(end - start) as usize).unwrap_or(data);
            content
                .get_mut(start as usize..)
                .and_then(|rest| rest.get_mut(..data.len()))
                .ok_or(BadBlob("a segment does not fit"))?
                .copy_from_slice(data);
            last = end;
            let offset = start & !(PAGE_SIZE - 1);
            let length = end.next_multiple_of(PAGE_SIZE) - offset;
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
        if segments.first().map(|first| first.protection) != Some(Protection::Read) {
            return Err(BadBlob("its constants are not at its start"));
        }
        if segments.last().map(|last| last.protection) != Some(Protection::ReadWrite) {
            return Err(BadBlob("its variables are not at its end"));
        }
        Ok(Self {
            end: last,
            enter: symbol("engraft_agent_enter")?,
            restorer: symbol("engraft_agent_restorer")?,
            hook: symbol("engraft_agent_hook")?,
            dispatch: symbol("engraft_agent_dispatch")?,
            relocations: relocations(&file)?,
            segments,
            content,
        })
    }

    /// The pieces of `content`, which is the blob's memory, and their offsets.
    pub(crate) fn pieces<'c>(&self, content: &'c [u8]) -> Vec<(u64, &'c [u8])> {
        let piece = |segment: &Segment| {
            let start = segment.offset as usize;
            let piece = content.get(start..start + segment.length as usize)?;
            Some((segment.offset, piece))
        };
        self.segments.iter().filter_map(piece).collect()
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
        assert!(blob.end < 128 * 1024, "{} bytes", blob.end);
        let constants = blob.segments.first().unwrap();
        assert_eq!(
            (constants.protection, constants.length),
            (Protection::Read, PAGE_SIZE)
        );
        let (here, there) = (blob.at(0x10_0000), blob.at(0x20_0000));
        let different = here.iter().zip(&there).filter(|(a, b)| a != b).count();
        assert!(different <= 8 * blob.relocations.len());
    }

    /// The caller of a patched function may rely on more than the ABI promises (GCC's -fipa-ra), so
    /// dispatch keeps all registers. It saves the general ones, and must not touch any other, nor
    /// call unknown code.
    #[test]
    fn dispatch_uses_general_registers_only() {
        use iced_x86::{Decoder, DecoderOptions, FlowControl, InstructionInfoFactory};
        let blob = Blob::embedded().unwrap();
        let text = blob.text();
        let mut seen = std::collections::BTreeSet::new();
        let mut todo = vec![blob.dispatch];
        let mut information = InstructionInfoFactory::new();
        while let Some(start) = todo.pop() {
            let code = &blob.content[start as usize..text.end as usize];
            let mut decoder = Decoder::with_ip(64, code, start, DecoderOptions::NONE);
            loop {
                let instruction = decoder.decode();
                assert!(!instruction.is_invalid(), "at {:#x}", instruction.ip());
                if !seen.insert(instruction.ip()) {
                    break;
                }
                for used in information.info(&instruction).used_registers() {
                    let register = used.register();
                    assert!(
                        register.is_gpr() || register.is_segment_register() || register.is_ip(),
                        "{register:?} at {:#x}",
                        instruction.ip()
                    );
                }
                match instruction.flow_control() {
                    FlowControl::Next => continue,
                    FlowControl::ConditionalBranch | FlowControl::Call => {
                        // A system call (arch_prctl, where there is no rdfsbase) has no target.
                        if instruction.near_branch_target() != 0 {
                            todo.push(instruction.near_branch_target());
                        }
                        continue;
                    }
                    FlowControl::UnconditionalBranch => {
                        todo.push(instruction.near_branch_target());
                    }
                    // Only the last jump, to the chosen body, is an indirect one.
                    FlowControl::IndirectBranch => {
                        assert_eq!(
                            instruction.memory_base(),
                            iced_x86::Register::RSP,
                            "at {:#x}",
                            instruction.ip()
                        );
                    }
                    FlowControl::Return => {}
                    other => panic!("{other:?} at {:#x}", instruction.ip()),
                }
                break;
            }
        }
        assert!(seen.len() > 50, "{} instructions", seen.len());
    }

    /// A panic returns to where the owner of the agent's lock entered the agent. So code that runs
    /// without the lock must not reach a panic: dispatch, and the loader's hook before it takes the
    /// lock.
    #[test]
    fn what_runs_without_the_lock_cannot_panic() {
        let blob = Blob::embedded().unwrap();
        let named = |part: &str| {
            let file = ElfFile64::<LittleEndian>::parse(BLOB).unwrap();
            let mut addresses = std::collections::BTreeSet::new();
            for symbol in file.symbols().filter(|symbol| symbol.is_definition()) {
                if symbol.name().is_ok_and(|name| name.contains(part)) {
                    addresses.insert(symbol.address());
                }
            }
            assert!(!addresses.is_empty(), "no symbol is named {part}");
            addresses
        };
        let panics = named("rust_begin_unwind");
        let locked = named("something_changed");
        for entry in [blob.dispatch, blob.hook] {
            let (reached, is_certain) = reached_from(&blob, entry, &locked);
            assert!(is_certain, "an indirect call from {entry:#x}");
            assert!(reached.is_disjoint(&panics), "from {entry:#x}");
        }
        // The walk does find panics where there are some.
        let (reached, _) = reached_from(&blob, blob.enter, &locked);
        assert!(!reached.is_disjoint(&panics));
    }

    /// The addresses of all instructions that can be reached without entering `avoided`, and
    /// whether these are all: where an indirect call leads is not known.
    fn reached_from(
        blob: &Blob,
        entry: u64,
        avoided: &std::collections::BTreeSet<u64>,
    ) -> (std::collections::BTreeSet<u64>, bool) {
        use iced_x86::{Decoder, DecoderOptions, FlowControl};
        let text = blob.text();
        let (mut reached, mut is_certain) = (std::collections::BTreeSet::new(), true);
        let mut todo = vec![entry];
        while let Some(start) = todo.pop() {
            let code = &blob.content[start as usize..text.end as usize];
            for instruction in Decoder::with_ip(64, code, start, DecoderOptions::NONE) {
                let is_new =
                    !avoided.contains(&instruction.ip()) && reached.insert(instruction.ip());
                if !is_new || instruction.is_invalid() {
                    break;
                }
                let target = instruction.near_branch_target();
                match instruction.flow_control() {
                    FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => {
                        todo.push(target);
                    }
                    // A system call has no target.
                    FlowControl::Call if target != 0 => todo.push(target),
                    FlowControl::IndirectCall => is_certain = false,
                    _ => {}
                }
                // The entries' own last jumps lead out of the agent.
                let ends = [
                    FlowControl::UnconditionalBranch,
                    FlowControl::IndirectBranch,
                    FlowControl::Return,
                    FlowControl::Exception,
                ];
                if ends.contains(&instruction.flow_control()) {
                    break;
                }
            }
        }
        (reached, is_certain)
    }
}
