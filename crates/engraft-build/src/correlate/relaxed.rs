//! Instructions that the linker rewrote because it knew more than the compiler: what is in the same
//! file needs no GOT slot, and a program's own thread-local variables have constant places (psABI
//! for x86-64, B.2; ELF handling for thread-local storage, 11.1).
//!
//! ```text
//! call *foo@GOTPCREL(%rip)           addr32 call foo; or nop and call foo, in either order
//! jmp *foo@GOTPCREL(%rip)            jmp foo; nop
//! mov foo@GOTPCREL(%rip), %reg       lea foo(%rip), %reg; or mov $foo, %reg
//! test, cmp, add, ... with foo       the same with $foo
//! mov or add x@gottpoff(%rip), %reg  mov $x@tpoff, %reg; add $x@tpoff, %reg; lea x@tpoff(%reg), %reg
//! lea x@tlsgd(%rip), %rdi and        mov %fs:0, %rax and lea x@tpoff(%rax), %rax
//!   call __tls_get_addr              or add x@gottpoff(%rip), %rax
//! lea x@tlsld(%rip), %rdi and        mov %fs:0, %rax
//!   call __tls_get_addr
//! ```

use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind, Register};
use object::elf;

use super::matching::{Class, Matcher, is_near_branch, next};
use crate::unit::{Flow, Reloc};

/// What became of the comparison of a rewritten instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relaxed {
    /// The linker did not rewrite it.
    No,
    /// It is what the linker made of the object's instruction.
    Same,
    /// It refers to something else than it does elsewhere.
    Differs,
}

impl Matcher<'_> {
    pub(super) fn compare_relaxed(
        &mut self,
        original: &Instruction,
        linked: &Instruction,
        reloc: &Reloc,
    ) -> Relaxed {
        let bound = match reloc.r_type {
            elf::R_X86_64_GOTPCREL | elf::R_X86_64_GOTPCRELX | elf::R_X86_64_REX_GOTPCRELX => {
                self.without_slot(original, linked, reloc)
            }
            elf::R_X86_64_GOTTPOFF => self.with_constant_offset(original, linked, reloc),
            elf::R_X86_64_TLSGD | elf::R_X86_64_TLSLD if reads_thread_pointer(linked) => {
                Some(self.without_call(reloc))
            }
            _ => None,
        };
        match bound {
            None => Relaxed::No,
            Some(Some(())) => Relaxed::Same,
            Some(None) => Relaxed::Differs,
        }
    }

    fn without_slot(
        &mut self,
        o: &Instruction,
        l: &Instruction,
        reloc: &Reloc,
    ) -> Option<Option<()>> {
        let same_register = register(o) == register(l);
        if reloc.flow != Flow::Value && is_near_branch(l) && is_call(o) == is_call(l) {
            // It leads to the function itself, never to a PLT entry: that would need the slot.
            let target = l.near_branch_target();
            let bound = self.bind(reloc, Class::Code, target);
            return Some(bound.and_then(|()| self.bind(reloc, Class::Address, target)));
        }
        if o.mnemonic() == Mnemonic::Mov && l.mnemonic() == Mnemonic::Lea {
            let found = same_register && l.is_ip_rel_memory_operand();
            return found.then(|| self.bind(reloc, Class::Address, l.ip_rel_memory_address()));
        }
        let found = same_register && o.mnemonic() == l.mnemonic() && became_immediate(o, l);
        found.then(|| self.bind(reloc, Class::Address, l.immediate(1)))
    }

    fn with_constant_offset(
        &mut self,
        o: &Instruction,
        l: &Instruction,
        reloc: &Reloc,
    ) -> Option<Option<()>> {
        let same_register = o.op0_register() == l.op0_register();
        let value = if o.mnemonic() == l.mnemonic() && became_immediate(o, l) {
            l.immediate(1)
        } else if o.mnemonic() == Mnemonic::Add
            && l.mnemonic() == Mnemonic::Lea
            && l.memory_base() == l.op0_register()
        {
            l.memory_displacement64()
        } else {
            return None;
        };
        same_register.then(|| self.bind(reloc, Class::TlsOffset, value))
    }

    /// The linker has also replaced the call of `__tls_get_addr` after the instruction.
    fn without_call(&mut self, reloc: &Reloc) -> Option<()> {
        let call = next(&mut self.original).instruction;
        if !is_call(&call) {
            return None;
        }
        if reloc.r_type == elf::R_X86_64_TLSLD {
            return self.bind(reloc, Class::TlsFromThreadPointer, 0);
        }
        let l = next(&mut self.linked).instruction;
        if l.op0_register() != Register::RAX {
            return None;
        }
        if l.mnemonic() == Mnemonic::Lea && l.memory_base() == Register::RAX {
            self.bind(reloc, Class::TlsOffset, l.memory_displacement64())
        } else if l.mnemonic() == Mnemonic::Add && l.is_ip_rel_memory_operand() {
            let entry = Class::TlsEntry(elf::R_X86_64_GOTTPOFF);
            self.bind(reloc, entry, l.ip_rel_memory_address())
        } else {
            None
        }
    }
}

/// True if the linker may rewrite more of the instruction than the field.
pub(super) fn is_relaxable(reloc: &Reloc) -> bool {
    matches!(
        reloc.r_type,
        elf::R_X86_64_GOTPCREL
            | elf::R_X86_64_GOTPCRELX
            | elf::R_X86_64_REX_GOTPCRELX
            | elf::R_X86_64_GOTTPOFF
            | elf::R_X86_64_TLSGD
            | elf::R_X86_64_TLSLD
    )
}

/// The register that an instruction works with; `test` has it last.
fn register(instruction: &Instruction) -> Register {
    match instruction.op0_kind() {
        OpKind::Memory if instruction.mnemonic() == Mnemonic::Test => instruction.op1_register(),
        _ => instruction.op0_register(),
    }
}

fn became_immediate(original: &Instruction, linked: &Instruction) -> bool {
    let immediate = |instruction: &Instruction| {
        instruction.op_count() == 2
            && matches!(
                instruction.op1_kind(),
                OpKind::Immediate32 | OpKind::Immediate32to64 | OpKind::Immediate8to64
            )
    };
    immediate(linked) && !immediate(original)
}

fn is_call(instruction: &Instruction) -> bool {
    matches!(
        instruction.flow_control(),
        FlowControl::Call | FlowControl::IndirectCall
    )
}

/// `mov %fs:0, %rax`
fn reads_thread_pointer(instruction: &Instruction) -> bool {
    instruction.mnemonic() == Mnemonic::Mov
        && instruction.op0_register() == Register::RAX
        && instruction.segment_prefix() == Register::FS
        && instruction.memory_base() == Register::None
        && instruction.memory_index() == Register::None
        && instruction.memory_displacement64() == 0
}
