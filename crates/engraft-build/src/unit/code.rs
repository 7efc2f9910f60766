//! What the instructions of a function say about its references.

use iced_x86::{Decoder, DecoderOptions, FlowControl};
use object::elf;

use super::item::{Item, ItemId};
use super::reloc::{Flow, Referent, Reloc};

/// An instruction of a function.
pub(super) struct InstructionSpan {
    start: u64,
    end: u64,
    flow: Flow,
    /// It goes where a word in memory says.
    is_indirect: bool,
}

pub(super) fn spans(code: &[u8]) -> Vec<InstructionSpan> {
    let mut decoder = Decoder::new(64, code, DecoderOptions::NONE);
    let mut spans = Vec::new();
    while decoder.can_decode() {
        let start = decoder.position() as u64;
        let (flow, is_indirect) = match decoder.decode().flow_control() {
            FlowControl::Call => (Flow::Call, false),
            FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch => {
                (Flow::Jump, false)
            }
            FlowControl::IndirectCall => (Flow::Call, true),
            FlowControl::IndirectBranch => (Flow::Jump, true),
            _ => (Flow::Value, false),
        };
        spans.push(InstructionSpan {
            start,
            end: decoder.position() as u64,
            flow,
            is_indirect,
        });
    }
    spans
}

/// The distance from a relocated field to the end of its instruction, and what the instruction does
/// with the field.
pub(super) fn operand(spans: &[InstructionSpan], reloc: &Reloc) -> (u8, Flow) {
    let index = spans.partition_point(|span| span.end <= reloc.place);
    let Some(span) = spans.get(index) else {
        return (0, Flow::Value);
    };
    // Through the symbol's GOT slot it is the symbol that is called; through another word in
    // memory, which the symbol names, it is whatever that holds.
    let flow = match span.is_indirect && !is_got_slot(reloc.r_type) {
        true => Flow::Value,
        false => span.flow,
    };
    let tail = match span.start <= reloc.place && is_pc_relative(reloc.r_type) {
        true => u8::try_from(span.end - reloc.place).unwrap_or(0),
        false => 0,
    };
    (tail, flow)
}

/// The assembler resolves what a static function says of itself, recursive calls and pointers. They
/// mean the function, not this copy of its code, so they are made references again.
pub(super) fn add_references_to_itself(item: &mut Item, id: ItemId) {
    let mut decoder = Decoder::with_ip(64, &item.bytes, 0, DecoderOptions::NONE);
    let mut found = Vec::new();
    while decoder.can_decode() {
        let instruction = decoder.decode();
        let fields = decoder.get_constant_offsets(&instruction);
        let (start, end) = (instruction.ip(), instruction.next_ip());
        let call = instruction.is_call_near() && instruction.near_branch_target() == 0;
        let pointer =
            instruction.is_ip_rel_memory_operand() && instruction.ip_rel_memory_address() == 0;
        if !(call || pointer) || !item.relocations_in(start..end).is_empty() {
            continue;
        }
        let field = if call {
            fields.immediate_offset()
        } else {
            fields.displacement_offset()
        };
        let place = start + field as u64;
        found.push(Reloc {
            place,
            r_type: elf::R_X86_64_PC32,
            referent: Referent::Item(id),
            offset: 0,
            tail: u8::try_from(end - place).unwrap_or(0),
            flow: if call { Flow::Call } else { Flow::Value },
            is_local: true,
        });
    }
    item.relocations.extend(found);
    item.relocations.sort_by_key(|reloc| reloc.place);
}

/// Fields that mean the GOT slot of a symbol.
fn is_got_slot(r_type: elf::RelocationType) -> bool {
    matches!(
        r_type,
        elf::R_X86_64_GOTPCREL | elf::R_X86_64_GOTPCRELX | elf::R_X86_64_REX_GOTPCRELX
    )
}

/// Fields that the processor adds to the address of the next instruction.
fn is_pc_relative(r_type: elf::RelocationType) -> bool {
    is_got_slot(r_type)
        || matches!(
            r_type,
            elf::R_X86_64_PC32
                | elf::R_X86_64_PLT32
                | elf::R_X86_64_GOTTPOFF
                | elf::R_X86_64_TLSGD
                | elf::R_X86_64_TLSLD
        )
}
