//! The unwind table of one module: which entry of its `.eh_frame` is about which code.
//!
//! `.eh_frame_hdr` (the segment `PT_GNU_EH_FRAME`) has a table sorted by address. All linkers write
//! it in the same encoding. If it is missing, or in another encoding, the entries of `.eh_frame`
//! are sorted here, once.

use std::cell::{OnceCell, RefCell};
use std::ops::Range;

use object::elf::{PT_GNU_EH_FRAME, PT_LOAD};

use crate::elf::file_sections::find_section;
use crate::elf::modules::{Module, ModuleKind};
use crate::memory::access::Memory;
use crate::memory::fields::half;
use crate::process::handle::Process;
use crate::process::limits::UNWIND_BYTES;
use crate::stack::eh_frame::{EhFrame, Found};
use crate::stack::unwind_budget::UnwindBudget;
use crate::stack::walk_error::WalkError;
use crate::sys::address::TargetAddress;

const VERSION: u8 = 1;
/// Encodings (`DW_EH_PE_*`): a 32-bit offset from the field itself, an unsigned 32-bit number, a
/// 32-bit offset from the start of the header.
const OFFSET_FROM_FIELD: u8 = 0x1b;
const NUMBER: u8 = 0x03;
const OFFSET_FROM_HEADER: u8 = 0x3b;
/// Version, three encodings, the place of `.eh_frame`, the number of rows.
const HEADER_SIZE: usize = 12;
const ROW_SIZE: usize = 8;

#[derive(Debug)]
pub(crate) struct UnwindTable {
    rows: Rows,
    section: RefCell<EhFrame>,
}

#[derive(Debug)]
enum Rows {
    /// The table as it is in memory, and the address to which its offsets are relative.
    Sorted {
        header: TargetAddress,
        rows: Vec<u8>,
    },
    /// There is no table in memory: this one is made from the section when it is first needed.
    Made(OnceCell<Vec<(TargetAddress, TargetAddress)>>),
}

/// An address at a signed 32-bit distance.
fn relative(base: TargetAddress, bytes: &[u8], at: usize) -> TargetAddress {
    base + half(bytes, at).cast_signed() as u64
}

impl UnwindTable {
    /// The table of a module; `None` if it has none that can be read.
    pub(crate) fn of_module(
        process: &Process,
        module: &Module,
        budget: &UnwindBudget,
    ) -> Option<Self> {
        let memory = Memory::new(process);
        let table = Self::by_header(memory, module, budget).or_else(|| {
            let is_program = module.kind == ModuleKind::Program;
            let section = is_program.then(|| find_section(process, module, ".eh_frame"));
            section
                .flatten()
                .map(|section| Self::of_section(section, budget))
        })?;
        // Entries that have to be sorted are sorted now. A failure is reported when the table is
        // needed.
        let _ = table.entry(memory, TargetAddress::default());
        Some(table)
    }

    /// The table of the segment `PT_GNU_EH_FRAME`.
    fn by_header(memory: Memory<'_>, module: &Module, budget: &UnwindBudget) -> Option<Self> {
        let headers = &module.program_headers;
        let header = headers
            .iter()
            .find(|header| header.kind == PT_GNU_EH_FRAME)?;
        let at = module.address(header.address);
        budget.take(header.memory_size).ok()?;
        let bytes = memory
            .read_bytes(at, header.memory_size, UNWIND_BYTES)
            .ok()?;
        let &[version, frame_encoding, count_encoding, table_encoding, ..] = bytes.as_slice()
        else {
            return None;
        };
        if version != VERSION || frame_encoding != OFFSET_FROM_FIELD {
            return None;
        }
        let frame = relative(at + 4, &bytes, 4);
        let inside = |start: TargetAddress, size| frame - start < size;
        let load = headers.iter().find(|header| {
            header.kind == PT_LOAD && inside(module.address(header.address), header.memory_size)
        })?;
        let end = module.address(load.address) + load.memory_size;
        let rows = if (count_encoding, table_encoding) == (NUMBER, OFFSET_FROM_HEADER) {
            let length = (half(&bytes, 8) as usize).checked_mul(ROW_SIZE)?;
            let mut rows = bytes;
            rows.drain(..HEADER_SIZE.min(rows.len()));
            if rows.len() < length {
                return None;
            }
            rows.truncate(length);
            Rows::Sorted { header: at, rows }
        } else {
            Rows::Made(OnceCell::new())
        };
        Some(Self {
            rows,
            section: RefCell::new(EhFrame::new(frame..end, budget.clone())),
        })
    }

    /// A table for an `.eh_frame` without header.
    pub(crate) fn of_section(section: Range<TargetAddress>, budget: &UnwindBudget) -> Self {
        Self {
            rows: Rows::Made(OnceCell::new()),
            section: RefCell::new(EhFrame::new(section, budget.clone())),
        }
    }

    /// The rules for the instruction at `at`.
    pub(crate) fn find(&self, memory: Memory<'_>, at: TargetAddress) -> Result<Found, WalkError> {
        let none = WalkError::NoEntry { at };
        let Some(entry) = self.entry(memory, at)? else {
            return Err(none);
        };
        let found = self.section.borrow_mut().rules(memory, entry, at)?;
        found.ok_or(none)
    }

    /// The last entry that starts at or below the address.
    fn entry(
        &self,
        memory: Memory<'_>,
        at: TargetAddress,
    ) -> Result<Option<TargetAddress>, WalkError> {
        let made = match &self.rows {
            Rows::Sorted { header, rows } => return Ok(search(rows, *header, at)),
            Rows::Made(made) => made,
        };
        let rows = match made.get() {
            Some(rows) => rows,
            None => {
                let rows = self.section.borrow_mut().index(memory, at)?;
                made.get_or_init(|| rows)
            }
        };
        let after = rows.partition_point(|(start, _)| *start <= at);
        let last = after.checked_sub(1).and_then(|last| rows.get(last));
        Ok(last.map(|(_, entry)| *entry))
    }
}

/// The entry in the last row that starts at or below the address.
fn search(rows: &[u8], header: TargetAddress, at: TargetAddress) -> Option<TargetAddress> {
    let (mut low, mut high) = (0, rows.len() / ROW_SIZE);
    while low < high {
        let middle = low + (high - low) / 2;
        if relative(header, rows, middle * ROW_SIZE) <= at {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Some(relative(header, rows, low.checked_sub(1)? * ROW_SIZE + 4))
}
