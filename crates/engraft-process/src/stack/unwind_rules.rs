//! How the registers of a caller follow from those of a frame: one row of call frame information,
//! evaluated.
//!
//! Nothing is guessed. A register that the row does not mention has its value in the caller only if
//! the ABI says that functions keep it; otherwise it is lost, and a rule that needs it fails.

use gimli::{
    EndianSlice, Evaluation, EvaluationResult, Expression, LittleEndian, Location, Register, Value,
};

use crate::memory::page_cache::PageCache;
use crate::stack::frame_registers::{
    COUNT, FrameRegisters, RETURN_ADDRESS, STACK_POINTER, is_preserved,
};
use crate::stack::walk_error::WalkError;
use crate::sys::address::TargetAddress;

/// Real expressions have fewer than ten operations; a loop in one ends here.
const MAX_OPERATIONS: u32 = 256;

/// Where the canonical frame address comes from.
#[derive(Clone, Debug)]
pub(crate) enum CfaRule {
    Offset { register: usize, offset: i64 },
    Expression(Box<[u8]>),
}

/// Where the caller's value of a register comes from.
#[derive(Clone, Debug)]
pub(crate) enum RegisterRule {
    /// The table says that it is lost; for the return address: there is no caller.
    Undefined,
    /// The table does not mention it.
    Default,
    SameValue,
    AtCfa(i64),
    CfaPlus(i64),
    Register(usize),
    At(Box<[u8]>),
    Is(Box<[u8]>),
}

/// The rules for one instruction.
#[derive(Clone, Debug)]
pub(crate) struct UnwindRules {
    pub(crate) encoding: gimli::Encoding,
    pub(crate) cfa: CfaRule,
    pub(crate) registers: [RegisterRule; COUNT],
    /// The caller was interrupted here by a signal, rather than having called.
    pub(crate) is_signal_frame: bool,
}

/// The caller's frame, as the rules compute it.
pub(crate) struct CallerFrame {
    /// The canonical frame address.
    pub(crate) cfa: TargetAddress,
    /// Where the return address is.
    pub(crate) return_at: Option<TargetAddress>,
    /// The caller's registers; `None` if the frame is marked as the last one.
    pub(crate) registers: Option<FrameRegisters>,
}

impl UnwindRules {
    /// Computes the caller of the frame that has these registers.
    pub(crate) fn apply(
        &self,
        frame: &FrameRegisters,
        memory: &PageCache<'_>,
    ) -> Result<CallerFrame, WalkError> {
        let context = Context {
            rules: self,
            frame,
            memory,
        };
        let cfa = context.cfa()?;
        let mut caller = CallerFrame {
            cfa: TargetAddress::new(cfa),
            return_at: None,
            registers: None,
        };
        let mut registers = FrameRegisters::default();
        for (number, rule) in self.registers.iter().enumerate() {
            let (value, at) = context.register(number, rule, cfa)?;
            registers.set(number, value);
            if number == RETURN_ADDRESS {
                caller.return_at = at.map(TargetAddress::new);
            }
        }
        let return_rule = self.registers.get(RETURN_ADDRESS);
        if !matches!(return_rule, Some(RegisterRule::Undefined)) {
            if registers.get(RETURN_ADDRESS).is_none() {
                return Err(context.lost(RETURN_ADDRESS as u16));
            }
            caller.registers = Some(registers);
        }
        Ok(caller)
    }
}

struct Context<'c> {
    rules: &'c UnwindRules,
    frame: &'c FrameRegisters,
    memory: &'c PageCache<'c>,
}

impl Context<'_> {
    fn at(&self) -> TargetAddress {
        self.frame.instruction_pointer()
    }

    fn lost(&self, register: u16) -> WalkError {
        WalkError::LostRegister {
            at: self.at(),
            register,
        }
    }

    fn need(&self, register: usize) -> Result<u64, WalkError> {
        let value = self.frame.get(register);
        value.ok_or_else(|| self.lost(u16::try_from(register).unwrap_or(u16::MAX)))
    }

    fn cfa(&self) -> Result<u64, WalkError> {
        match &self.rules.cfa {
            CfaRule::Offset { register, offset } => {
                Ok(self.need(*register)?.wrapping_add_signed(*offset))
            }
            CfaRule::Expression(code) => self.evaluate(code, None),
        }
    }

    /// The value of a register in the caller, and where in memory it was found.
    fn register(
        &self,
        number: usize,
        rule: &RegisterRule,
        cfa: u64,
    ) -> Result<(Option<u64>, Option<u64>), WalkError> {
        let read = |at: u64| {
            let value = self.memory.read_u64(TargetAddress::new(at))?;
            Ok((Some(value), Some(at)))
        };
        match rule {
            RegisterRule::Undefined => Ok((None, None)),
            // By definition of the canonical frame address.
            RegisterRule::Default if number == STACK_POINTER => Ok((Some(cfa), None)),
            RegisterRule::Default if is_preserved(number) => Ok((self.frame.get(number), None)),
            RegisterRule::Default => Ok((None, None)),
            // The return address of a frame is never its own instruction pointer.
            RegisterRule::SameValue if number == RETURN_ADDRESS => Ok((None, None)),
            RegisterRule::SameValue => Ok((self.frame.get(number), None)),
            RegisterRule::AtCfa(offset) => read(cfa.wrapping_add_signed(*offset)),
            RegisterRule::CfaPlus(offset) => Ok((Some(cfa.wrapping_add_signed(*offset)), None)),
            RegisterRule::Register(other) => Ok((self.frame.get(*other), None)),
            RegisterRule::At(code) => read(self.evaluate(code, Some(cfa))?),
            RegisterRule::Is(code) => Ok((Some(self.evaluate(code, Some(cfa))?), None)),
        }
    }

    /// Runs a DWARF expression. Those in call frame information are over registers, memory and
    /// constants; everything else there is refused.
    fn evaluate(&self, code: &[u8], initial: Option<u64>) -> Result<u64, WalkError> {
        let expression = Expression(EndianSlice::new(code, LittleEndian));
        let mut evaluation = expression.evaluation(self.rules.encoding);
        evaluation.set_max_iterations(MAX_OPERATIONS);
        if let Some(value) = initial {
            evaluation.set_initial_value(value);
        }
        let mut step = evaluation.evaluate();
        loop {
            step = match step.map_err(|source| self.damaged(source))? {
                EvaluationResult::Complete => return self.result(evaluation),
                EvaluationResult::RequiresRegister { register, .. } => {
                    let value = self.need(register.0.into())?;
                    evaluation.resume_with_register(Value::Generic(value))
                }
                EvaluationResult::RequiresMemory {
                    address,
                    size,
                    space: None,
                    ..
                } => {
                    let mut bytes = [0; 8];
                    let place = bytes.get_mut(..size.into());
                    let place = place.ok_or_else(|| self.not_understood("a wide operand"))?;
                    self.memory.read(TargetAddress::new(address), place)?;
                    let value = Value::Generic(u64::from_le_bytes(bytes));
                    evaluation.resume_with_memory(value)
                }
                _ => return Err(self.not_understood("an operation of its expression")),
            };
        }
    }

    fn result<R: gimli::Reader>(&self, evaluation: Evaluation<R>) -> Result<u64, WalkError> {
        match evaluation.as_result() {
            [piece] => match piece.location {
                Location::Address { address } => Ok(address),
                _ => Err(self.not_understood("the kind of result of its expression")),
            },
            _ => Err(self.not_understood("the number of results of its expression")),
        }
    }

    fn damaged(&self, source: gimli::Error) -> WalkError {
        WalkError::Damaged {
            at: self.at(),
            source,
        }
    }

    fn not_understood(&self, what: &'static str) -> WalkError {
        WalkError::NotUnderstood {
            at: self.at(),
            what,
        }
    }
}

/// The place of a register in [`FrameRegisters`], if it is one that is followed.
pub(crate) fn followed(register: Register) -> Option<usize> {
    let number = usize::from(register.0);
    (number < COUNT).then_some(number)
}
