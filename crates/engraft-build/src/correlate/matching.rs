//! One function of an object against the code at one address of a binary.

use std::collections::{BTreeMap, HashMap};

use iced_x86::{ConstantOffsets, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind};
use object::elf;

use super::content;
use super::relaxed::{Relaxed, is_relaxable};
use crate::binary::Binary;
use crate::refusal::Mismatch;
use crate::unit::{Item, ItemId, Referent, Reloc, Unit};

/// Where linking may make a function longer: short jumps of the assembler became near ones, and
/// padding moved.
const SLACK: usize = 4096;

/// A function of the object that is in the binary.
#[derive(Debug, Clone)]
pub(crate) struct Match {
    pub(crate) address: u64,
    /// Its size in the binary.
    pub(crate) size: u64,
    /// What the linker made of its references.
    pub(crate) bindings: HashMap<(Referent, Class), u64>,
    /// Instruction offset in the object → address in the binary.
    pub(crate) instructions: HashMap<u64, u64>,
}

impl Match {
    /// The first instruction in front of `end` that is not as far from the function's start as in
    /// the object: its offset in the object, and that in the binary.
    pub(crate) fn first_moved(&self, end: u64) -> Option<(u64, u64)> {
        // Padding has the address of the instruction after it, whose offset is the largest of them.
        let mut offsets = BTreeMap::new();
        for (&offset, address) in &self.instructions {
            let largest = offsets
                .entry(address.wrapping_sub(self.address))
                .or_insert(offset);
            *largest = offset.max(*largest);
        }
        let mut offsets = offsets.range(..end);
        let found = offsets.find(|&(in_binary, in_object)| in_binary != in_object);
        found.map(|(&in_binary, &in_object)| (in_object, in_binary))
    }
}

/// What a field holds once it is linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Class {
    /// Where a call or jump goes: the function, or its PLT entry.
    Code,
    /// Where one goes that means the function itself.
    LocalCode,
    /// The address itself.
    Address,
    /// The address of a GOT slot that holds the address.
    GotSlot,
    /// The variable's distance from the thread pointer.
    TlsOffset,
    /// The address of a GOT entry of another TLS model, by relocation type; for `R_X86_64_DTPOFF32`
    /// the distance from where the module's variables begin, or, with
    /// [`Class::TlsFromThreadPointer`], from the thread pointer.
    TlsEntry(elf::RelocationType),
    /// Nothing: where the module's variables begin is no longer asked for, the thread pointer does.
    TlsFromThreadPointer,
}

/// Compares the function with the code at `address`.
pub(crate) fn match_function(
    unit: &Unit,
    id: ItemId,
    binary: &Binary,
    address: u64,
) -> Result<Match, Mismatch> {
    let none = || Mismatch {
        address,
        offset: 0,
        expected: "a function".to_owned(),
        found: "no code".to_owned(),
    };
    let item = unit.item(id).ok_or_else(none)?;
    let code = binary.code(address, item.bytes.len().saturating_add(SLACK));
    if code.is_empty() || item.bytes.is_empty() {
        return Err(none());
    }
    let matcher = Matcher {
        item,
        binary,
        original: Decoder::with_ip(64, &item.bytes, 0, DecoderOptions::NONE),
        linked: Decoder::with_ip(64, code, address, DecoderOptions::NONE),
        found: Match {
            address,
            size: 0,
            bindings: HashMap::new(),
            instructions: HashMap::new(),
        },
        branches: Vec::new(),
    };
    let found = matcher.run()?;
    content::check(unit, id, binary, &found)?;
    Ok(found)
}

pub(super) struct Matcher<'a> {
    pub(super) item: &'a Item,
    pub(super) binary: &'a Binary,
    pub(super) original: Decoder<'a>,
    pub(super) linked: Decoder<'a>,
    pub(super) found: Match,
    /// Jumps and references inside the function: instruction, target in the object, target in the
    /// binary.
    pub(super) branches: Vec<(u64, u64, u64)>,
}

/// An instruction with its bytes' layout.
pub(super) struct Decoded {
    pub(super) instruction: Instruction,
    pub(super) fields: ConstantOffsets,
}

pub(super) fn next(decoder: &mut Decoder<'_>) -> Decoded {
    let instruction = decoder.decode();
    let fields = decoder.get_constant_offsets(&instruction);
    Decoded {
        instruction,
        fields,
    }
}

impl Matcher<'_> {
    fn run(mut self) -> Result<Match, Mismatch> {
        // Padding differs with the length of jumps; what jumps to it means what follows it.
        let mut padding = Vec::new();
        while self.original.can_decode() {
            let original = next(&mut self.original);
            if original.instruction.mnemonic() == Mnemonic::Nop {
                padding.push(original.instruction.ip());
                continue;
            }
            let mut linked = next(&mut self.linked);
            while linked.instruction.mnemonic() == Mnemonic::Nop && self.linked.can_decode() {
                linked = next(&mut self.linked);
            }
            let here = linked.instruction.ip();
            self.found
                .instructions
                .extend(padding.drain(..).map(|offset| (offset, here)));
            self.found
                .instructions
                .insert(original.instruction.ip(), here);
            self.compare(&original, &linked)
                .ok_or_else(|| self.mismatch(&original, &linked))?;
            self.found.size = linked
                .instruction
                .next_ip()
                .wrapping_sub(self.found.address);
        }
        for &(instruction, expected, found) in &self.branches {
            if self.found.instructions.get(&expected) != Some(&found) {
                return Err(Mismatch {
                    address: self
                        .found
                        .instructions
                        .get(&instruction)
                        .copied()
                        .unwrap_or_default(),
                    offset: instruction,
                    expected: format!("a reference to function + {expected:#x}"),
                    found: format!("one to {found:#x}"),
                });
            }
        }
        Ok(self.found)
    }

    /// `None` if the instructions differ.
    fn compare(&mut self, original: &Decoded, linked: &Decoded) -> Option<()> {
        let (o, l) = (&original.instruction, &linked.instruction);
        if o.is_invalid() || l.is_invalid() {
            return None;
        }
        let relocations = self.item.relocations_in(o.ip()..o.next_ip());
        if let [reloc] = relocations {
            match self.compare_relaxed(o, l, reloc) {
                Relaxed::No => {}
                Relaxed::Same => return Some(()),
                Relaxed::Differs => return None,
            }
        }
        let (mut o_rest, mut l_rest) = (*o, *l);
        if is_near_branch(o) && is_near_branch(l) {
            let target = l.near_branch_target();
            match relocations {
                [] => self.branches.push((o.ip(), o.near_branch_target(), target)),
                [reloc] => {
                    self.bind(reloc, code_class(reloc), target.wrapping_sub(offset(reloc)))?
                }
                _ => return None,
            }
            // A jump may be short in one and near in the other.
            o_rest.set_near_branch64(0);
            l_rest.set_near_branch64(0);
            if o.mnemonic() == l.mnemonic() {
                l_rest.set_code(o.code());
            }
        } else {
            if relocations.is_empty()
                && o.is_ip_rel_memory_operand()
                && l.is_ip_rel_memory_operand()
            {
                // A label of the function itself.
                let (label, found) = (o.ip_rel_memory_address(), l.ip_rel_memory_address());
                self.branches.push((o.ip(), label, found));
                o_rest.set_memory_displacement64(0);
                l_rest.set_memory_displacement64(0);
            }
            for reloc in relocations {
                self.take_field(original, linked, reloc, &mut o_rest, &mut l_rest)?;
            }
        }
        (o_rest == l_rest).then_some(())
    }

    /// Reads a relocated field of the binary and takes it out of the comparison.
    fn take_field(
        &mut self,
        original: &Decoded,
        linked: &Decoded,
        reloc: &Reloc,
        o_rest: &mut Instruction,
        l_rest: &mut Instruction,
    ) -> Option<()> {
        let (o, l) = (&original.instruction, &linked.instruction);
        let position = usize::try_from(reloc.place.checked_sub(o.ip())?).ok()?;
        let o_fields = &original.fields;
        if o_fields.has_displacement() && o_fields.displacement_offset() == position {
            o_rest.set_memory_displacement64(0);
            l_rest.set_memory_displacement64(0);
            let place = l.ip() + linked.fields.displacement_offset() as u64;
            self.bind_field(reloc, l, place)
        } else if o_fields.has_immediate() && o_fields.immediate_offset() == position {
            let wide = (0..o.op_count()).any(|op| o.op_kind(op) == OpKind::Immediate64);
            for rest in [o_rest, l_rest] {
                if wide {
                    rest.set_immediate64(0)
                } else {
                    rest.set_immediate32(0)
                }
            }
            let place = l.ip() + linked.fields.immediate_offset() as u64;
            self.bind_field(reloc, l, place)
        } else {
            None
        }
    }

    fn bind_field(&mut self, reloc: &Reloc, linked: &Instruction, place: u64) -> Option<()> {
        let field = self.binary.field(place)?;
        let signed = i64::from(field.cast_signed()).cast_unsigned();
        let relative = linked.next_ip().wrapping_add(signed);
        let less = |value: u64| value.wrapping_sub(offset(reloc));
        match reloc.r_type {
            elf::R_X86_64_PC32 | elf::R_X86_64_PLT32 => {
                self.bind(reloc, Class::Address, less(relative))
            }
            elf::R_X86_64_32 => self.bind(reloc, Class::Address, less(u64::from(field))),
            elf::R_X86_64_32S => self.bind(reloc, Class::Address, less(signed)),
            elf::R_X86_64_64 => {
                let pointer = self.binary.pointer(place)?;
                self.bind(reloc, Class::Address, less(pointer))
            }
            elf::R_X86_64_GOTPCREL | elf::R_X86_64_GOTPCRELX | elf::R_X86_64_REX_GOTPCRELX => {
                self.bind(reloc, Class::GotSlot, relative)
            }
            elf::R_X86_64_TPOFF32 => self.bind(reloc, Class::TlsOffset, less(signed)),
            elf::R_X86_64_DTPOFF32 => self.bind(reloc, Class::TlsEntry(reloc.r_type), less(signed)),
            elf::R_X86_64_GOTTPOFF | elf::R_X86_64_TLSGD | elf::R_X86_64_TLSLD => {
                self.bind(reloc, Class::TlsEntry(reloc.r_type), relative)
            }
            _ => None,
        }
    }

    /// `None` if the same reference resolves to something else elsewhere in the function.
    pub(super) fn bind(&mut self, reloc: &Reloc, class: Class, value: u64) -> Option<()> {
        let key = (reloc.bound_to(), class);
        let known = *self.found.bindings.entry(key).or_insert(value);
        (known == value).then_some(())
    }

    fn mismatch(&self, original: &Decoded, linked: &Decoded) -> Mismatch {
        let (o, l) = (&original.instruction, &linked.instruction);
        let bytes = |bytes: &[u8]| {
            bytes
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<Vec<_>>()
                .join(" ")
        };
        Mismatch {
            address: l.ip(),
            offset: o.ip(),
            expected: bytes(self.item.bytes_in(o.ip()..o.next_ip())),
            found: bytes(self.binary.code(l.ip(), l.len())),
        }
    }
}

fn code_class(reloc: &Reloc) -> Class {
    if reloc.is_local {
        Class::LocalCode
    } else {
        Class::Code
    }
}

fn offset(reloc: &Reloc) -> u64 {
    reloc.offset.cast_unsigned()
}

pub(super) fn is_near_branch(instruction: &Instruction) -> bool {
    instruction.op_count() > 0 && instruction.op0_kind() == OpKind::NearBranch64
}

/// The bytes at a function's start that are the same wherever it is linked.
pub(super) fn fixed_prefix(item: &Item) -> &[u8] {
    let mut decoder = Decoder::with_ip(64, &item.bytes, 0, DecoderOptions::NONE);
    let first = item.relocations.first();
    let mut end = first.map_or(item.size, |reloc| reloc.place);
    while decoder.can_decode() && decoder.ip() < end {
        let instruction = decoder.decode();
        let is_relocated = instruction.next_ip() > end;
        let may_change = is_relocated && first.is_some_and(is_relaxable);
        if is_near_branch(&instruction) || may_change {
            end = end.min(instruction.ip());
        }
    }
    item.bytes_in(0..end)
}
