//! The registers of one frame of a stack, under their DWARF numbers, as far as they are known.

use crate::sys::address::TargetAddress;
use crate::sys::registers::Registers;

/// DWARF numbers (System V ABI for x86-64, figure 3.36): rax, rdx, rcx, rbx, rsi, rdi, rbp, rsp,
/// r8 to r15, and the return address.
pub(crate) const STACK_POINTER: usize = 7;
pub(crate) const RETURN_ADDRESS: usize = 16;
pub(crate) const COUNT: usize = 17;

/// Does a function keep this register for its caller?
pub(crate) fn is_preserved(register: usize) -> bool {
    const RBX: usize = 3;
    const RBP: usize = 6;
    matches!(register, RBX | RBP | 12..=15)
}

/// The values; `None` is what was not saved and is lost.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FrameRegisters {
    values: [Option<u64>; COUNT],
}

impl FrameRegisters {
    pub(crate) fn get(&self, register: usize) -> Option<u64> {
        self.values.get(register).copied().flatten()
    }

    pub(crate) fn set(&mut self, register: usize, value: Option<u64>) {
        if let Some(place) = self.values.get_mut(register) {
            *place = value;
        }
    }

    pub(crate) fn instruction_pointer(&self) -> TargetAddress {
        TargetAddress::new(self.get(RETURN_ADDRESS).unwrap_or(0))
    }
}

impl From<&Registers> for FrameRegisters {
    fn from(r: &Registers) -> Self {
        let values = [
            r.rax, r.rdx, r.rcx, r.rbx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10, r.r11,
            r.r12, r.r13, r.r14, r.r15, r.rip,
        ];
        Self {
            values: values.map(Some),
        }
    }
}
