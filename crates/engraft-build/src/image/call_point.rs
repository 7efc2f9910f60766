//! Call points: places in a binary that call what a register holds, and return.
//!
//! Some functions of the dynamic loader look up the module that their return address lies in. New
//! code lies in no module, so it lets a call point make such calls. Then the loader sees the return
//! address after the call point, which is in the module that the new code is for, and the
//! instructions there return to the new code. Calls and returns match, as shadow stacks demand.
//!
//! Unwinders pass through such a frame as well. So the binary's call frame information for the call
//! point must be true of the frame that new code makes there, and that frame must need no cleanup.

use std::ops::Range;

use gimli::{
    BaseAddresses, CfaRule, CieOrFde, EhFrame, LittleEndian, RegisterRule, UnwindContext,
    UnwindSection as _, X86_64,
};
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

use crate::binary::Binary;

/// Sites are at the entries of functions, `endbr64` and a jump at most. A call point keeps away
/// from them: another patch may change any function.
const ENTRY: u64 = 16;
/// No more bytes than a call of a register, and what may follow it.
const LONGEST: usize = 32;

/// A place that calls what a register holds, takes some bytes from the stack and returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CallPoint {
    /// Where the call is.
    pub(crate) address: u64,
    pub(crate) register: CallRegister,
    /// Bytes that are taken from the stack after the call.
    pub(crate) skipped: u32,
    /// and the registers that are popped then.
    pub(crate) popped: Vec<Popped>,
}

/// A register that holds neither an argument nor what a caller relies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallRegister {
    Rax,
    R10,
    R11,
}

/// A register that a called function preserves, by its number in instructions and in call frame
/// information.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Popped {
    pub(crate) number: u8,
    column: gimli::Register,
}

impl CallPoint {
    /// A call point of a binary that is in none of the functions which are replaced.
    pub(crate) fn find(binary: &Binary, replaced: &[Range<u64>]) -> Option<Self> {
        let mut points: Vec<Self> = binary
            .executable()
            .flat_map(|(start, bytes)| candidates(start, bytes))
            .filter(|point| !replaced.iter().any(|range| range.contains(&point.address)))
            .collect();
        points.sort_by_key(|point| point.address);
        described(binary, &points).or_else(|| in_initialiser(binary, points))
    }

    /// Bytes between the stack pointer at the call and the return address.
    fn depth(&self) -> i64 {
        i64::from(self.skipped) + 8 * self.popped.len() as i64
    }

    /// The call point at an address.
    fn at(address: u64, code: &[u8]) -> Option<Self> {
        let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
        let call = decoder.decode();
        let is_call = call.mnemonic() == Mnemonic::Call && call.op0_kind() == OpKind::Register;
        let register = match call.op0_register() {
            Register::RAX if is_call => CallRegister::Rax,
            Register::R10 if is_call => CallRegister::R10,
            Register::R11 if is_call => CallRegister::R11,
            _ => return None,
        };
        let mut point = Self {
            address,
            register,
            skipped: 0,
            popped: Vec::new(),
        };
        loop {
            let instruction = decoder.decode();
            match instruction.mnemonic() {
                Mnemonic::Ret if instruction.op_count() == 0 => break,
                Mnemonic::Add if point.skipped == 0 && point.popped.is_empty() => {
                    point.skipped = skipped(&instruction)?;
                }
                Mnemonic::Pop => point.popped.push(Popped::of(instruction.op0_register())?),
                _ => return None,
            }
        }
        // Called functions find the stack aligned as the ABI says, if the call point's own function
        // does.
        (point.depth() % 16 == 8).then_some(point)
    }

    /// Whether call frame information says of the call what is true of its frame.
    fn agrees(&self, row: &gimli::UnwindTableRow<usize>) -> bool {
        let cfa = CfaRule::RegisterAndOffset {
            register: X86_64::RSP,
            offset: self.depth() + 8,
        };
        let saved = |(register, rule): &(gimli::Register, RegisterRule<usize>)| {
            let index = self.popped.iter().position(|it| it.column == *register);
            let above = |index: usize| 8 * (self.popped.len() - index) as i64 + 8;
            match index {
                Some(index) => *rule == RegisterRule::Offset(-above(index)),
                None if *register == X86_64::RA => *rule == RegisterRule::Offset(-8),
                None => matches!(rule, RegisterRule::Undefined | RegisterRule::SameValue),
            }
        };
        let is_saved = |popped: &Popped| {
            let rule = row.register(popped.column);
            matches!(rule, Some(RegisterRule::Offset(_)))
        };
        let rules: Vec<_> = row
            .registers()
            .map(|(r, rule)| (*r, rule.clone()))
            .collect();
        *row.cfa() == cfa && rules.iter().all(saved) && self.popped.iter().all(is_saved)
    }
}

impl Popped {
    fn of(register: Register) -> Option<Self> {
        let (number, column) = match register {
            Register::RBX => (3, X86_64::RBX),
            Register::RBP => (5, X86_64::RBP),
            Register::R12 => (12, X86_64::R12),
            Register::R13 => (13, X86_64::R13),
            Register::R14 => (14, X86_64::R14),
            Register::R15 => (15, X86_64::R15),
            _ => return None,
        };
        Some(Self { number, column })
    }
}

/// How many bytes an instruction takes from the stack.
fn skipped(instruction: &Instruction) -> Option<u32> {
    let is_add = instruction.op0_register() == Register::RSP
        && matches!(
            instruction.op1_kind(),
            OpKind::Immediate8to64 | OpKind::Immediate32to64
        );
    let bytes = is_add.then(|| instruction.immediate(1))?;
    // New code makes room for them, which a guard page must not be skipped for.
    u32::try_from(bytes).ok().filter(|bytes| *bytes <= 1024)
}

/// All call points in a segment.
fn candidates(start: u64, bytes: &[u8]) -> impl Iterator<Item = CallPoint> + '_ {
    const CALL: u8 = 0xff;
    const REX_B: u8 = 0x41;
    let calls = bytes.windows(2).enumerate();
    let calls = calls.filter(|(_, pair)| pair[0] == CALL && matches!(pair[1], 0xd0 | 0xd2 | 0xd3));
    calls.filter_map(move |(index, _)| {
        let has_prefix = index > 0 && bytes.get(index - 1) == Some(&REX_B);
        let first = index - usize::from(has_prefix);
        let code = bytes.get(first..)?;
        CallPoint::at(start + first as u64, code.get(..LONGEST).unwrap_or(code))
    })
}

/// The first of sorted call points whose frame is described as it is.
fn described(binary: &Binary, points: &[CallPoint]) -> Option<CallPoint> {
    let (address, bytes) = binary.eh_frame.as_ref()?;
    let section = EhFrame::new(bytes, LittleEndian);
    let bases = BaseAddresses::default().set_eh_frame(*address);
    let mut context = UnwindContext::new();
    let mut entries = section.entries(&bases);
    while let Ok(Some(entry)) = entries.next() {
        let CieOrFde::Fde(partial) = entry else {
            continue;
        };
        let Ok(fde) = partial.parse(EhFrame::cie_from_offset) else {
            continue;
        };
        let after_entry = fde.initial_address().saturating_add(ENTRY);
        let first = points.partition_point(|point| point.address < after_entry);
        let inside = points.get(first..).unwrap_or_default().iter();
        let mut inside = inside.take_while(|point| fde.contains(point.address));
        let plain = fde.cie().personality().is_none()
            && fde.lsda().is_none()
            && !fde.is_signal_trampoline();
        let found = inside.find(|point| {
            let row = fde.unwind_info_for_address(&section, &bases, &mut context, point.address);
            plain && row.is_ok_and(|row| point.agrees(row))
        });
        if let Some(point) = found {
            return Some(point.clone());
        }
    }
    None
}

/// The call of `__gmon_start__` that linkers put into `_init`. No frame is described there, so that
/// unwinders end, and none is described wrongly.
fn in_initialiser(binary: &Binary, points: Vec<CallPoint>) -> Option<CallPoint> {
    let range = binary.initialiser.as_ref()?;
    let mut points = points.into_iter();
    points.find(|point| range.contains(&point.address))
}

#[cfg(test)]
mod tests {
    use super::{CallPoint, CallRegister};

    fn at(code: &[u8]) -> Option<CallPoint> {
        CallPoint::at(0x1000, code)
    }

    #[test]
    fn a_call_that_takes_what_was_pushed_and_returns() {
        let point = at(&[0xff, 0xd0, 0x48, 0x83, 0xc4, 0x08, 0xc3]).unwrap();
        assert_eq!(
            (point.register, point.skipped, point.popped.len()),
            (CallRegister::Rax, 8, 0)
        );
        // add $8,%rsp; pop %rbx; pop %r12; ret
        let code = [
            0x41, 0xff, 0xd3, 0x48, 0x83, 0xc4, 8, 0x5b, 0x41, 0x5c, 0xc3,
        ];
        let point = at(&code).unwrap();
        let popped: Vec<u8> = point.popped.iter().map(|it| it.number).collect();
        assert_eq!((point.register, popped), (CallRegister::R11, vec![3, 12]));
    }

    #[test]
    fn none_that_does_anything_else() {
        // The stack is not aligned.
        assert_eq!(at(&[0xff, 0xd0, 0xc3]), None);
        // It uses the result.
        assert_eq!(
            at(&[0xff, 0xd0, 0x85, 0xc0, 0x48, 0x83, 0xc4, 8, 0xc3]),
            None
        );
        // A popped register is one that the caller gets its result in.
        assert_eq!(at(&[0xff, 0xd0, 0x58, 0xc3]), None);
        // Called through a register that holds an argument.
        assert_eq!(at(&[0xff, 0xd7, 0x5b, 0xc3]), None);
        assert_eq!(at(&[0xff, 0xd0, 0x5b]), None);
    }
}
