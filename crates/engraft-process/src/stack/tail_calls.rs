//! Whether a replaced function may end in a jump to another one (a tail call). At the entry of the
//! other function, such a jump looks like a call by the caller of the first one: the same stack
//! pointer, the same return address. But the call is the old function's, and must lead to old code.
//!
//! The search follows all jumps that leave the function, and those that leave the code to which
//! these lead, in whatever module. A jump to a computed address leaves the function only if, by the
//! call frame information, the function has no frame there; with a frame it is a jump inside the
//! function (a switch). A jump that is not understood may lead anywhere.

use std::collections::BTreeSet;
use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, OpKind, Register};

use crate::stack::frame_registers::STACK_POINTER;
use crate::stack::replaced_code::ReplacedCode;
use crate::stack::unwind_rules::CfaRule;
use crate::stack::walk::StackWalk;
use crate::sys::address::TargetAddress;

/// More functions are not followed.
const MAX_FUNCTIONS: usize = 64;
/// Larger functions are not followed, in bytes.
const MAX_FUNCTION: u64 = 64 << 10;
/// The size of a return address: all that is on the stack of a function without a frame.
const NO_FRAME: i64 = 8;

/// Whether the function at `at`, a return address unless it is exact, may jump to the entry of a
/// replaced one.
pub(crate) fn may_jump_to_replaced(
    walk: &StackWalk<'_>,
    at: TargetAddress,
    is_exact: bool,
    replaced: &ReplacedCode,
) -> bool {
    let at = match is_exact {
        true => at,
        false => at - 1,
    };
    let search = Search { walk, replaced };
    search.run(at).is_none()
}

struct Search<'s> {
    walk: &'s StackWalk<'s>,
    replaced: &'s ReplacedCode,
}

impl Search<'_> {
    /// Follows all jumps; `None` if one leads to replaced code, or is not understood.
    fn run(&self, start: TargetAddress) -> Option<()> {
        let mut todo = vec![start];
        // A switch may lead to parts of the function elsewhere, which no jump shows.
        let parts = self.replaced.ranges.iter().map(|range| range.start);
        let parts = parts.filter(|part| self.function(*part).is_some());
        todo.extend(parts.filter(|part| self.allowed(*part).is_some()));
        let mut seen = BTreeSet::new();
        while let Some(at) = todo.pop() {
            let function = self.function(at)?;
            if !seen.insert(function.start) {
                continue;
            }
            if seen.len() > MAX_FUNCTIONS {
                return None;
            }
            self.follow(&function, &mut todo)?;
        }
        Some(())
    }

    /// The function to which some code belongs.
    fn function(&self, at: TargetAddress) -> Option<Range<TargetAddress>> {
        let place = self.walk.context().place(at, self.walk.maps()).ok()?;
        let found = place.table.find(self.walk.process_memory(), at).ok()?;
        Some(found.function)
    }

    /// Finds the jumps that leave a function.
    fn follow(&self, function: &Range<TargetAddress>, todo: &mut Vec<TargetAddress>) -> Option<()> {
        let mut code = self.read(function)?;
        self.restore_sites(function, &mut code);
        let start = function.start.get();
        let decoder = Decoder::with_ip(64, &code, start, DecoderOptions::NONE);
        for instruction in decoder {
            let target = match instruction.flow_control() {
                FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch => {
                    near_target(&instruction)
                }
                FlowControl::IndirectBranch => {
                    if !self.leaves(TargetAddress::new(instruction.ip()))
                        && !is_through_word(&instruction)
                    {
                        continue;
                    }
                    Some(self.word_target(&instruction)?)
                }
                // A call into the middle of the same function is used for something else than
                // calling.
                FlowControl::Call => {
                    let target = near_target(&instruction);
                    if target.is_some_and(|it| function.contains(&it) && it != function.start) {
                        return None;
                    }
                    continue;
                }
                FlowControl::Exception if instruction.is_invalid() => return None,
                _ => continue,
            };
            let target = target?;
            let is_inside = function.contains(&target) && target != function.start;
            if !is_inside {
                todo.push(self.end_of_stubs(target)?);
            }
        }
        Some(())
    }

    fn read(&self, function: &Range<TargetAddress>) -> Option<Vec<u8>> {
        let length = function.end - function.start;
        let memory = self.walk.process_memory();
        memory.read_bytes(function.start, length, MAX_FUNCTION).ok()
    }

    /// Restores the bytes that sites have replaced.
    fn restore_sites(&self, function: &Range<TargetAddress>, code: &mut [u8]) {
        for (entry, original) in &self.replaced.entries {
            let at = entry.end - original.len() as u64;
            if function.contains(&at) {
                let place = code.get_mut((at - function.start) as usize..);
                let place = place.unwrap_or_default().iter_mut();
                place.zip(original).for_each(|(to, from)| *to = *from);
            }
        }
    }

    /// The target of a jump, unless it is the entry of replaced code.
    fn allowed(&self, target: TargetAddress) -> Option<TargetAddress> {
        let mut entries = self.replaced.entries.iter();
        let is_entry = entries.any(|(entry, _)| entry.contains(&target));
        let mut deciding = self.replaced.deciding.iter();
        let decides = deciding.any(|range| range.contains(&target));
        (!is_entry && !decides).then_some(target)
    }

    /// Whether a jump at `at` leaves the function: the function has no frame there.
    fn leaves(&self, at: TargetAddress) -> bool {
        let rules = || {
            let place = self.walk.context().place(at, self.walk.maps()).ok()?;
            let found = place.table.find(self.walk.process_memory(), at).ok()?;
            Some(found.rules.cfa)
        };
        match rules() {
            Some(CfaRule::Offset { register, offset }) => {
                register == STACK_POINTER && offset == NO_FRAME
            }
            Some(CfaRule::Expression(_)) | None => true,
        }
    }

    /// The target of a jump through a word at a fixed distance: an entry of the procedure linkage
    /// table, or code like it.
    fn word_target(&self, instruction: &Instruction) -> Option<TargetAddress> {
        if !is_through_word(instruction) {
            return None;
        }
        let word = TargetAddress::new(instruction.ip_rel_memory_address());
        let target = self.walk.process_memory().read_u64(word).ok()?;
        Some(TargetAddress::new(target))
    }

    /// The final target of a jump, if it leads to code that is only a jump through a word. (By its
    /// call frame information, the whole table of such code is one function.)
    fn end_of_stubs(&self, target: TargetAddress) -> Option<TargetAddress> {
        let target = self.allowed(target)?;
        match self.stub(target) {
            Some(next) => self.allowed(next),
            None => Some(target),
        }
    }

    /// The target of the code at `at`, if that is only a jump through a word.
    fn stub(&self, at: TargetAddress) -> Option<TargetAddress> {
        let code = self.walk.process_memory().read_array::<12>(at).ok()?;
        let decoder = Decoder::with_ip(64, &code, at.get(), DecoderOptions::NONE);
        let first = decoder
            .into_iter()
            .find(|it| it.mnemonic() != iced_x86::Mnemonic::Endbr64)?;
        self.word_target(&first)
    }
}

fn near_target(instruction: &Instruction) -> Option<TargetAddress> {
    let is_near = instruction.op0_kind() == OpKind::NearBranch64;
    is_near.then(|| TargetAddress::new(instruction.near_branch_target()))
}

fn is_through_word(instruction: &Instruction) -> bool {
    instruction.is_jmp_near_indirect()
        && instruction.op0_kind() == OpKind::Memory
        && instruction.memory_base() == Register::RIP
}
