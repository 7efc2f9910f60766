//! An `.eh_frame` section in the target's memory, read as far as it is needed.

use std::collections::HashSet;
use std::ops::Range;

use gimli::{BaseAddresses, EhFrameOffset, LittleEndian, UnwindContext, UnwindSection};

use crate::memory::access::{Memory, MemoryError};
use crate::memory::fields::half;
use crate::process::limits::UNWIND_ENTRY;
use crate::stack::frame_registers::COUNT;
use crate::stack::unwind_budget::UnwindBudget;
use crate::stack::unwind_rules::{CfaRule, RegisterRule, UnwindRules, followed};
use crate::stack::walk_error::WalkError;
use crate::sys::address::TargetAddress;

/// The memory that the first write into the buffer may take: the system may give it a huge page.
const HUGE_PAGE: u64 = 2 << 20;
/// The size of the pieces in which the section is read. An entry has less than a hundred bytes.
const PIECE: u64 = 4096;
/// Entries beyond this length are not found. The largest programs (browsers) have about 30 MiB.
const MAX_SECTION: u64 = 128 << 20;
/// The only return address register of x86-64 code.
const RETURN_ADDRESS: gimli::Register = gimli::X86_64::RA;

/// The section, of which only the needed pieces are read: two or three for a walk. The rest of the
/// buffer is zero, and the system does not even allocate it.
#[derive(Debug)]
pub(crate) struct EhFrame {
    start: TargetAddress,
    length: u64,
    /// Empty until something is read.
    bytes: Vec<u8>,
    present: HashSet<u64>,
    budget: UnwindBudget,
}

/// The function that one entry is about, and the rules for one of its instructions.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) function: Range<TargetAddress>,
    pub(crate) rules: UnwindRules,
}

impl EhFrame {
    /// The section that starts with the range, and ends with it at the latest.
    pub(crate) fn new(range: Range<TargetAddress>, budget: UnwindBudget) -> Self {
        let length = if range.start <= range.end {
            (range.end - range.start).min(MAX_SECTION)
        } else {
            0
        };
        Self {
            start: range.start,
            length,
            bytes: Vec::new(),
            present: HashSet::new(),
            budget,
        }
    }

    /// Reads a part of the section, unless it has been read.
    fn load(&mut self, memory: Memory<'_>, part: Range<u64>) -> Result<(), MemoryError> {
        let length = self.length;
        if part.end > length {
            return Err(MemoryError::TooMuch {
                address: self.start + part.start,
                length: part.end - part.start,
                limit: length.saturating_sub(part.start),
            });
        }
        if self.bytes.is_empty() {
            self.budget.take(length.min(HUGE_PAGE))?;
            self.bytes = vec![0; length as usize];
        }
        for piece in part.start / PIECE..part.end.div_ceil(PIECE) {
            if self.present.contains(&piece) {
                continue;
            }
            self.budget.take(PIECE)?;
            let start = piece * PIECE;
            let end = (start + PIECE).min(length);
            let place = self.bytes.get_mut(start as usize..end as usize);
            memory.read(self.start + start, place.unwrap_or_default())?;
            self.present.insert(piece);
        }
        Ok(())
    }

    /// Reads the entry at this offset; the result is its end, `None` if it is the terminator.
    fn load_entry(&mut self, memory: Memory<'_>, offset: u64) -> Result<Option<u64>, DamagedEntry> {
        self.load(memory, offset..offset.saturating_add(4))?;
        let length = self.half_at(offset);
        match length {
            0 => return Ok(None),
            // 64-bit DWARF, which no compiler writes into .eh_frame.
            0xffff_ffff => return Err(gimli::Error::UnknownReservedLength(length).into()),
            _ => {}
        }
        let length = u64::from(length);
        if length > UNWIND_ENTRY {
            return Err(DamagedEntry::Memory(MemoryError::TooMuch {
                address: self.start + offset,
                length,
                limit: UNWIND_ENTRY,
            }));
        }
        let end = offset + 4 + length;
        self.load(memory, offset..end)?;
        Ok(Some(end))
    }

    fn half_at(&self, offset: u64) -> u32 {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        half(self.bytes.get(offset..).unwrap_or_default(), 0)
    }

    /// Reads the entry of a function and the common one that it refers to.
    fn load_function(&mut self, memory: Memory<'_>, offset: u64) -> Result<(), DamagedEntry> {
        let end = self.load_entry(memory, offset)?;
        end.ok_or(gimli::Error::NotCiePointer(offset))?;
        let field = offset + 4;
        let back = self.half_at(field);
        if back == 0 {
            return Err(gimli::Error::NotCiePointer(offset).into());
        }
        let common = field.checked_sub(back.into());
        let common = common.ok_or(gimli::Error::OffsetOutOfBounds(offset))?;
        self.load_entry(memory, common)?;
        Ok(())
    }

    fn bases(&self) -> BaseAddresses {
        BaseAddresses::default().set_eh_frame(self.start.get())
    }

    fn function(
        &self,
        offset: u64,
    ) -> Result<gimli::FrameDescriptionEntry<Slice<'_>>, gimli::Error> {
        let offset =
            usize::try_from(offset).map_err(|_| gimli::Error::OffsetOutOfBounds(offset))?;
        self.section().fde_from_offset(
            &self.bases(),
            EhFrameOffset(offset),
            gimli::EhFrame::cie_from_offset,
        )
    }

    fn section(&self) -> gimli::EhFrame<Slice<'_>> {
        let mut section = gimli::EhFrame::new(&self.bytes, LittleEndian);
        section.set_address_size(8);
        section
    }

    /// The rules for the instruction at `at`, from the entry at this address; `None` if that entry
    /// is about other code.
    pub(crate) fn rules(
        &mut self,
        memory: Memory<'_>,
        entry: TargetAddress,
        at: TargetAddress,
    ) -> Result<Option<Found>, WalkError> {
        let damaged = |error: DamagedEntry| error.about(at);
        let offset = entry - self.start;
        self.load_function(memory, offset).map_err(damaged)?;
        let function = self.function(offset).map_err(|e| damaged(e.into()))?;
        if !function.contains(at.get()) {
            return Ok(None);
        }
        let not_understood = |what| WalkError::NotUnderstood { at, what };
        let common = function.cie();
        if common.return_address_register() != RETURN_ADDRESS {
            return Err(not_understood("its return address register"));
        }
        let section = self.section();
        let mut context = UnwindContext::new();
        let row = function
            .unwind_info_for_address(&section, &self.bases(), &mut context, at.get())
            .map_err(|e| damaged(e.into()))?;
        let code = |expression: &gimli::UnwindExpression<usize>| {
            let code = expression.get(&section).map_err(|e| damaged(e.into()))?;
            Ok::<_, WalkError>(Box::from(code.0.slice()))
        };
        let unknown_register = || not_understood("a register in it");
        let cfa = match row.cfa() {
            gimli::CfaRule::RegisterAndOffset { register, offset } => CfaRule::Offset {
                register: followed(*register).ok_or_else(unknown_register)?,
                offset: *offset,
            },
            gimli::CfaRule::Expression(expression) => CfaRule::Expression(code(expression)?),
        };
        let mut registers = [const { RegisterRule::Default }; COUNT];
        for (register, rule) in row.registers() {
            // Vector registers are not followed; nothing depends on them.
            let Some(place) = followed(*register).and_then(|n| registers.get_mut(n)) else {
                continue;
            };
            *place = match rule {
                gimli::RegisterRule::Undefined => RegisterRule::Undefined,
                gimli::RegisterRule::SameValue => RegisterRule::SameValue,
                gimli::RegisterRule::Offset(offset) => RegisterRule::AtCfa(*offset),
                gimli::RegisterRule::ValOffset(offset) => RegisterRule::CfaPlus(*offset),
                gimli::RegisterRule::Register(other) => {
                    RegisterRule::Register(followed(*other).ok_or_else(unknown_register)?)
                }
                gimli::RegisterRule::Expression(expression) => RegisterRule::At(code(expression)?),
                gimli::RegisterRule::ValExpression(expression) => {
                    RegisterRule::Is(code(expression)?)
                }
                _ => return Err(not_understood("a rule in it")),
            };
        }
        let function_range = function.initial_address().into()..function.end_address().into();
        Ok(Some(Found {
            function: function_range,
            rules: UnwindRules {
                encoding: common.encoding(),
                cfa,
                registers,
                is_signal_frame: function.is_signal_trampoline(),
            },
        }))
    }

    /// All entries of functions, in the order of the code they are about. One damaged entry makes
    /// the whole section worthless, for what comes after it cannot be found.
    pub(crate) fn index(
        &mut self,
        memory: Memory<'_>,
        at: TargetAddress,
    ) -> Result<Vec<(TargetAddress, TargetAddress)>, WalkError> {
        let damaged = |error: DamagedEntry| error.about(at);
        let mut index = Vec::new();
        let mut offset = 0;
        // The terminator may be missing in a section that ends where its segment does.
        while offset < self.length {
            let Some(end) = self.load_entry(memory, offset).map_err(damaged)? else {
                break;
            };
            if self.half_at(offset + 4) != 0 {
                let function = self.function(offset).map_err(|e| damaged(e.into()))?;
                index.push((function.initial_address().into(), self.start + offset));
            }
            offset = end;
        }
        index.sort_unstable();
        Ok(index)
    }
}

type Slice<'s> = gimli::EndianSlice<'s, LittleEndian>;

/// What is wrong with an entry. For which code it was needed is added later.
enum DamagedEntry {
    Memory(MemoryError),
    Form(gimli::Error),
}

impl DamagedEntry {
    fn about(self, at: TargetAddress) -> WalkError {
        match self {
            Self::Memory(error) => WalkError::Memory(error),
            Self::Form(source) => WalkError::Damaged { at, source },
        }
    }
}

impl From<MemoryError> for DamagedEntry {
    fn from(error: MemoryError) -> Self {
        Self::Memory(error)
    }
}

impl From<gimli::Error> for DamagedEntry {
    fn from(error: gimli::Error) -> Self {
        Self::Form(error)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::{Read, Write};
    use std::panic::AssertUnwindSafe;
    use std::process::{Child, Command, Stdio};

    use bolero::check;

    use super::*;
    use crate::memory::page_cache::PageCache;
    use crate::process::handle::Process;
    use crate::stack::frame_registers::FrameRegisters;
    use crate::sys::registers::Registers;

    /// Memory in which a section is looked at.
    struct Place<'p> {
        process: &'p Process,
        start: TargetAddress,
        registers: FrameRegisters,
        understood: Cell<u32>,
    }

    impl Place<'_> {
        /// Reads and applies all rules of a section, `step` bytes into each function.
        fn read(&self, section: &[u8], step: u64) {
            let memory = self.process.memory();
            memory.write(self.start, section).unwrap();
            let range = self.start.range(section.len() as u64);
            let mut section = EhFrame::new(range, UnwindBudget::new(self.process));
            let pages = PageCache::new(memory);
            for (at, entry) in section.index(memory, self.start).unwrap_or_default() {
                if let Ok(Some(found)) = section.rules(memory, entry, at + step) {
                    self.understood.set(self.understood.get() + 1);
                    let _ = found.rules.apply(&self.registers, &pages);
                }
            }
        }
    }

    /// A process that ends with the test.
    struct Ended(Child);

    impl Drop for Ended {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn damaged_tables_are_errors() {
        // The signal restorer's entry, with expressions for everything, a plain one and a
        // terminator.
        const GOOD: &[u8] =
            b"\x14\0\0\0\0\0\0\0\x01zRS\0\x01\x78\x10\x01\x00\x0c\x07\x08\x90\x01\0\
            \x2c\0\0\0\x1c\0\0\0\0\x10\0\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\x0f\x04\x77\xa0\x01\x06\
            \x10\x08\x02\x77\x28\x16\x09\x02\x77\x30\x0a\x44\x0e\x20\x0b\x07\x10\0\0\
            \0\0\0\0\0\0\0\0";
        // No thread runs there: its memory is only a place from which to read.
        let mut child = Ended(
            Command::new("cat")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        // It answers, so it is what it is going to be.
        let mut answer = [0; 1];
        let (stdin, stdout) = (&mut child.0.stdin, &mut child.0.stdout);
        stdin.as_mut().unwrap().write_all(b"?").unwrap();
        stdout.as_mut().unwrap().read_exact(&mut answer).unwrap();
        let process = Process::open(child.0.id().try_into().unwrap()).unwrap();
        let maps = process.maps().unwrap();
        let stack = maps.iter().find(|mapping| mapping.name == "[stack]");
        let start = stack.unwrap().range.start;
        let registers = Registers {
            rsp: start.get(),
            ..Registers::default()
        };
        let place = AssertUnwindSafe(Place {
            process: &process,
            start,
            registers: FrameRegisters::from(&registers),
            understood: Cell::new(0),
        });
        check!()
            .with_iterations(20_000)
            .with_type::<([(u8, u8); 4], u8, u8)>()
            .for_each(|(changes, count, step)| {
                let mut bytes = GOOD.to_vec();
                for (place, byte) in changes.iter().take(usize::from(*count) % 5) {
                    let place = usize::from(*place) % bytes.len();
                    bytes[place] = *byte;
                }
                place.read(&bytes, u64::from(*step) % 16);
            });
        let understood = place.understood.get();
        assert!(understood > 1000, "{understood}");
    }
}
