//! The trampoline of an old function: its instructions that the site overwrites, moved to another
//! place, and a jump to the rest of it.
//!
//! Instructions are copied as they are, prefixes included. Only what depends on the instruction's
//! own address changes. A field that is relative to the instruction pointer becomes a relocation,
//! since the address of the image is known only when the patch is applied. Branches with an 8-bit
//! displacement lead to jumps at the trampoline's end. Each such field still means the same
//! address, also if that is in the same function: after the site the old code is intact, and at the
//! entry the site dispatches each thread.
//!
//! So each instruction is as far from the first one as it was, and the function's call frame
//! information is true of the trampoline, too. It is needed: one of the instructions may be a call
//! that an exception comes out of.

use std::collections::HashMap;
use std::ops::Range;

use engraft_machine::jump;
use engraft_patch::check::ADDRESS_LIMIT;
use engraft_patch::{LinkAddress, OldPart, RelocationKind};
use iced_x86::{
    ConstantOffsets, Decoder, DecoderOptions, FlowControl, Instruction, OpKind, Register,
};

use crate::image::draft::{Area, FILLER, Fixup, FixupTarget, ImageDraft, Spot, object_target};
use crate::refusal::{Hex, Refusal, Unmovable};

/// Where trampolines begin, as functions do.
const ALIGNMENT: u64 = 16;
/// The size of its displacement and of all other fields that are relative to the instruction
/// pointer.
const FIELD: usize = 4;

/// The code of a trampoline, wherever it will be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MovedCode {
    bytes: Vec<u8>,
    fields: Vec<Field>,
    /// Places of 8-bit displacements, and the link-time addresses that they lead to.
    short: Vec<(usize, u64)>,
    /// Where the first instruction was, from the function's entry.
    start: u64,
    /// The end of the part of the function whose frames matter, also from its entry: the end of
    /// what was moved or, if a jump to the rest follows, one byte after the start of the rest.
    end: u64,
    /// Size in bytes of what was moved, and of the jump to the rest.
    covered: usize,
    /// The old function's name and entry, for names of what is referred to.
    function: String,
    entry: u64,
}

/// A 32-bit field that is relative to the end of its instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Field {
    /// Where it is in the code.
    offset: usize,
    /// Distance from the field's start to the end of its instruction.
    tail: usize,
    /// The link-time address it leads to.
    target: u64,
    /// The target is called, or holds the address that is called.
    is_call: bool,
}

impl MovedCode {
    /// Moves the instructions of an old function that overlap its site.
    pub(crate) fn new(function: &str, part: &OldPart, site: Range<u64>) -> Result<Self, Refusal> {
        let mut code = Self {
            bytes: Vec::new(),
            fields: Vec::new(),
            short: Vec::new(),
            start: site.start,
            end: site.start,
            covered: 0,
            function: function.to_owned(),
            entry: part.address.0,
        };
        let mut next = site.start;
        while next < site.end {
            let address = part.address.0.wrapping_add(next);
            let start = usize::try_from(next).unwrap_or(usize::MAX);
            let rest = part.code.get(start..).unwrap_or_default();
            let mut decoder = Decoder::with_ip(64, rest, address, DecoderOptions::NONE);
            let instruction = decoder.decode();
            let fields = decoder.get_constant_offsets(&instruction);
            let bytes = rest.get(..instruction.len()).unwrap_or_default();
            let refuse = |reason| Refusal::UnmovableInstruction {
                function: function.to_owned(),
                address: Hex(address),
                bytes: rest
                    .get(..instruction.len().max(1))
                    .unwrap_or(rest)
                    .to_vec(),
                reason,
            };
            code.instruction(&instruction, &fields, bytes)
                .map_err(refuse)?;
            next += instruction.len() as u64;
            code.end = next;
            match instruction.flow_control() {
                // What follows is reached by jumps only, and jumps into the site were refused.
                FlowControl::Return
                | FlowControl::UnconditionalBranch
                | FlowControl::IndirectBranch
                | FlowControl::Exception => return Ok(code.finish()),
                // A call may be the end: of a function that does not return.
                FlowControl::Call | FlowControl::IndirectCall => {}
                _ if next >= part.code.len() as u64 => return Err(refuse(Unmovable::FallsOut)),
                _ => {}
            }
        }
        code.end = next + 1;
        code.branch(&[jump::OPCODE], part.address.0.wrapping_add(next));
        Ok(code.finish())
    }

    /// Appends what short branches lead to.
    fn finish(mut self) -> Self {
        self.covered = self.bytes.len();
        for (place, target) in std::mem::take(&mut self.short) {
            // The last instruction begins in the site, so all of this has fewer than 40 bytes.
            let distance = self.bytes.len() - (place + 1);
            if let Some(displacement) = self.bytes.get_mut(place) {
                *displacement = distance as u8;
            }
            self.branch(&[jump::OPCODE], target);
        }
        self
    }

    /// Where the first instruction was, from the function's entry.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// The end of the part of the function whose frames matter here, from its entry.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// What its calls call, or where that address is.
    pub(crate) fn called(&self) -> impl Iterator<Item = u64> {
        let calls = self.fields.iter().filter(|field| field.is_call);
        calls.map(|field| field.target)
    }

    /// Size in bytes of what was moved, and of the jump to the rest.
    pub(crate) fn covered(&self) -> u64 {
        self.covered as u64
    }

    /// Appends one instruction.
    fn instruction(
        &mut self,
        instruction: &Instruction,
        fields: &ConstantOffsets,
        bytes: &[u8],
    ) -> Result<(), Unmovable> {
        if instruction.is_invalid() {
            return Err(Unmovable::NoInstruction);
        }
        if instruction.memory_base() == Register::EIP {
            return Err(Unmovable::Narrow);
        }
        if instruction.is_ip_rel_memory_operand() {
            let target = instruction.ip_rel_memory_address();
            let is_call = instruction.is_call_near_indirect();
            self.copy(bytes, fields.displacement_offset(), target, is_call);
            return Ok(());
        }
        match instruction.op0_kind() {
            OpKind::NearBranch64 => self.near_branch(instruction, fields, bytes),
            OpKind::NearBranch16 | OpKind::NearBranch32 => Err(Unmovable::Narrow),
            _ => {
                self.bytes.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    fn near_branch(
        &mut self,
        instruction: &Instruction,
        fields: &ConstantOffsets,
        bytes: &[u8],
    ) -> Result<(), Unmovable> {
        let target = instruction.near_branch_target();
        let place = fields.immediate_offset();
        if instruction.is_call_near() && target == instruction.next_ip() {
            return Err(Unmovable::CallsNext);
        }
        if fields.immediate_size() == FIELD {
            if is_narrow_for_some(bytes) {
                return Err(Unmovable::Narrow);
            }
            self.copy(bytes, place, target, instruction.is_call_near());
            return Ok(());
        }
        if instruction.is_jmp_short() {
            // The last one.
            self.branch(&[jump::OPCODE], target);
        } else {
            self.short.push((self.bytes.len() + place, target));
            self.bytes.extend_from_slice(bytes);
        }
        Ok(())
    }

    /// An instruction whose field at `place` is relocated.
    fn copy(&mut self, bytes: &[u8], place: usize, target: u64, is_call: bool) {
        self.fields.push(Field {
            offset: self.bytes.len() + place,
            tail: bytes.len().saturating_sub(place),
            target,
            is_call,
        });
        let (before, rest) = bytes.split_at_checked(place).unwrap_or((bytes, &[]));
        self.bytes.extend_from_slice(before);
        self.bytes.extend_from_slice(&[0; FIELD]);
        self.bytes
            .extend_from_slice(rest.get(FIELD..).unwrap_or_default());
    }

    /// A branch whose displacement comes last.
    fn branch(&mut self, opcode: &[u8], target: u64) {
        self.copy(&[opcode, &[0; FIELD]].concat(), opcode.len(), target, false);
    }

    /// Appends the trampoline to the text, after as many bytes as were in front of its first
    /// instruction: its call frame information begins there, as the function's does. Returns where
    /// it is, and its size. Calls that have a thunk call the thunk.
    pub(crate) fn place(&self, draft: &mut ImageDraft, thunks: &HashMap<u64, Spot>) -> (Spot, u64) {
        let filler = vec![FILLER; usize::try_from(self.start).unwrap_or(0)];
        draft.add(Area::Text, &filler, self.start, 1);
        let size = self.bytes.len() as u64;
        let start = draft.add(Area::Text, &self.bytes, size, ALIGNMENT);
        for field in &self.fields {
            let thunk = thunks.get(&field.target).filter(|_| field.is_call);
            let (target, rest) = match thunk {
                Some(&thunk) => (FixupTarget::Spot(thunk), 0),
                None => self.target(field.target),
            };
            draft.fixup(Fixup {
                place: Spot {
                    area: Area::Text,
                    offset: start.offset + field.offset as u64,
                },
                kind: RelocationKind::PcRelative32,
                target,
                addend: rest.saturating_sub_unsigned(field.tail as u64),
            });
        }
        (start, size)
    }

    /// An address in the old binary, named by its distance from the function, as there may be no
    /// better name. What is no address (an array's base minus its first index) is a distance from
    /// one.
    fn target(&self, address: u64) -> (FixupTarget, i64) {
        if address > ADDRESS_LIMIT {
            let rest = address.wrapping_sub(self.entry).cast_signed();
            return (object_target(&self.function, LinkAddress(self.entry)), rest);
        }
        let name = match address.checked_sub(self.entry) {
            Some(0) => self.function.clone(),
            Some(after) => format!("{}+{after:#x}", self.function),
            None => format!("{}-{:#x}", self.function, self.entry - address),
        };
        (object_target(&name, LinkAddress(address)), 0)
    }
}

/// Processors do not agree on a branch with an operand size prefix: some cut off the address,
/// unless REX.W, which stands last, overrides the prefix.
fn is_narrow_for_some(bytes: &[u8]) -> bool {
    const OPERAND_SIZE: u8 = 0x66;
    let is_prefix = |byte: &&u8| {
        matches!(
            **byte,
            0x66 | 0x67 | 0x2e | 0x36 | 0x3e | 0x26 | 0x64 | 0x65 | 0xf2 | 0xf3
        )
    };
    let prefixes = bytes.iter().take_while(is_prefix).count();
    let wide = bytes.get(prefixes).is_some_and(|byte| byte & 0xf8 == 0x48);
    !wide
        && bytes
            .iter()
            .take(prefixes)
            .any(|&byte| byte == OPERAND_SIZE)
}

#[cfg(test)]
mod tests;
