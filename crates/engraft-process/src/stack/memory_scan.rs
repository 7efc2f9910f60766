//! A scan of all writable memory for words that may be return addresses, of contexts that are
//! suspended on no thread's stack.
//!
//! Only private memory is scanned, and of that only pages which the program has touched: stacks are
//! nowhere else. A word may also be a left-over of a call that returned long ago. Contexts of
//! `swapcontext` can be told from left-overs ([`UserContext`]).

use std::fs::File;
use std::ops::Range;
use std::time::Instant;

use crate::memory::access::Memory;
use crate::memory::access::MemoryError;
use crate::memory::fields::word;
use crate::memory::instructions::{TAIL, may_be_call};
use crate::memory::maps::{Mapping, Maps};
use crate::memory::resident::touched_pages;
use crate::process::handle::Process;
use crate::stack::own_stack::own_stack;
use crate::stack::user_context::UserContext;
use crate::sys::address::TargetAddress;
use crate::trace::thread_state::ThreadState;

/// The size of the pieces in which memory is read.
const PIECE: u64 = 1 << 20;
/// More words give no more information.
const MOST_WORDS: usize = 1 << 14;
/// More contexts than any program has.
const MOST_CONTEXTS: usize = 1 << 16;

/// Why memory could not be scanned.
#[derive(Debug, thiserror::Error)]
pub enum MemoryScanError {
    /// There is too much memory to be scanned in time.
    #[error(
        "the writable memory of process {pid} could not be looked through in time: {looked_at} bytes were"
    )]
    TimedOut {
        /// The process.
        pid: i32,
        /// How many bytes were scanned.
        looked_at: u64,
    },
    /// More words look like contexts than any program has contexts.
    #[error("process {pid} has more than {MOST_CONTEXTS} suspended contexts")]
    TooManyContexts {
        /// The process.
        pid: i32,
    },
    /// Memory could not be read.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// A word in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundWord {
    /// Its address.
    pub at: TargetAddress,
    /// Its value.
    pub value: TargetAddress,
}

/// A scan of the memory of a process. The memory map must be of the present stop.
#[derive(Debug)]
pub struct MemoryScan<'s> {
    process: &'s Process,
    maps: &'s Maps,
    /// Memory that does not belong to the program, or that is checked in another way.
    excluded: Vec<Range<TargetAddress>>,
    until: Instant,
}

impl<'s> MemoryScan<'s> {
    /// Prepares a scan of all memory but `excluded`, which ends at `until`.
    pub fn new(
        process: &'s Process,
        maps: &'s Maps,
        mut excluded: Vec<Range<TargetAddress>>,
        until: Instant,
    ) -> Self {
        excluded.sort_by_key(|range| range.start);
        Self {
            process,
            maps,
            excluded,
            until,
        }
    }

    /// Words that may be return addresses into the code, or addresses in the data.
    ///
    /// # Errors
    /// Any [`MemoryScanError`].
    pub fn words(
        &self,
        code: &[Range<TargetAddress>],
        data: &[Range<TargetAddress>],
    ) -> Result<Vec<FoundWord>, MemoryScanError> {
        let wanted = Wanted::new(self.process, code, data);
        let mut found = Vec::new();
        self.pieces(|start, bytes| {
            let words = words(start, bytes).filter(|word| wanted.contains(word.value));
            found.extend(words.take(MOST_WORDS - found.len()));
            Ok(found.len() < MOST_WORDS)
        })?;
        Ok(found)
    }

    /// The contexts that `swapcontext` has suspended.
    ///
    /// # Errors
    /// Any [`MemoryScanError`].
    pub fn user_contexts(&self) -> Result<Vec<UserContext>, MemoryScanError> {
        let mut contexts = Vec::new();
        let in_stack = |pointer: TargetAddress| {
            let mapping = self.maps.find(pointer);
            mapping.is_some_and(|mapping| mapping.writable)
        };
        let in_code = |pointer: TargetAddress| {
            let mapping = self.maps.find(pointer);
            mapping.is_some_and(|mapping| mapping.executable)
        };
        let code = self.maps.iter().filter(|mapping| mapping.executable);
        let lowest = code.clone().map(|it| it.range.start).min();
        let highest = code.map(|it| it.range.end).max();
        let span = lowest.unwrap_or_default()..highest.unwrap_or_default();
        self.pieces(|start, bytes| {
            let pairs = words(start, bytes).zip(words(start, bytes).skip(1));
            for (pointer, address) in pairs {
                let may_be = span.contains(&address.value)
                    && pointer.value.get() % 8 == 0
                    && in_code(address.value)
                    && in_stack(pointer.value);
                let context = may_be.then(|| UserContext::at(self.process, pointer.at));
                contexts.extend(context.flatten());
            }
            if contexts.len() > MOST_CONTEXTS {
                let pid = self.process.pid();
                return Err(MemoryScanError::TooManyContexts { pid });
            }
            Ok(true)
        })?;
        Ok(contexts)
    }

    /// Calls `show` with all memory, one page or more at a time, as long as it returns true.
    fn pieces(
        &self,
        mut show: impl FnMut(TargetAddress, &[u8]) -> Result<bool, MemoryScanError>,
    ) -> Result<(), MemoryScanError> {
        let pid = self.process.pid();
        let pages = File::open(self.process.memory_task().path("pagemap")).ok();
        let mut buffer = vec![0; PIECE as usize];
        let mut looked_at = 0;
        for mapping in self.maps.iter().filter(|mapping| may_hold_stacks(mapping)) {
            for range in self.included(&mapping.range) {
                let mut start = range.start;
                while start < range.end {
                    if Instant::now() > self.until {
                        return Err(MemoryScanError::TimedOut { pid, looked_at });
                    }
                    let end = (start + PIECE).min(range.end);
                    for run in touched_pages(pages.as_ref(), &(start..end)) {
                        let length = (run.end - run.start) as usize;
                        let place = buffer.get_mut(..length).unwrap_or_default();
                        match Memory::new(self.process).read(run.start, place) {
                            // The program cannot read it either.
                            Err(MemoryError::Unmapped { .. }) => continue,
                            read => read?,
                        }
                        looked_at += length as u64;
                        if !show(run.start, place)? {
                            return Ok(());
                        }
                    }
                    start = end;
                }
            }
        }
        Ok(())
    }

    /// The parts of a range that are not excluded.
    fn included(&self, range: &Range<TargetAddress>) -> Vec<Range<TargetAddress>> {
        let mut left = Vec::new();
        let mut start = range.start;
        for excluded in &self.excluded {
            if excluded.start < range.end && start < excluded.end {
                if start < excluded.start {
                    left.push(start..excluded.start);
                }
                start = excluded.end;
            }
        }
        if start < range.end {
            left.push(start..range.end);
        }
        left
    }
}

/// The words of a piece of memory.
fn words(start: TargetAddress, bytes: &[u8]) -> impl Iterator<Item = FoundWord> + '_ {
    let words = bytes.chunks_exact(8).zip(0_u64..);
    words.map(move |(bytes, index)| FoundWord {
        at: start + index * 8,
        value: TargetAddress::new(word(bytes, 0)),
    })
}

/// Whether a program may have stacks in this mapping. A device must not even be read.
fn may_hold_stacks(mapping: &Mapping) -> bool {
    let is_device = mapping.name.as_encoded_bytes().starts_with(b"/dev/");
    mapping.readable && mapping.writable && !mapping.shared && !is_device
}

/// The words that are searched for.
struct Wanted {
    code: Vec<(Range<TargetAddress>, bool)>,
    data: Vec<Range<TargetAddress>>,
    span: Range<TargetAddress>,
}

impl Wanted {
    fn new(
        process: &Process,
        code: &[Range<TargetAddress>],
        data: &[Range<TargetAddress>],
    ) -> Self {
        let ends_in_call = |end: TargetAddress| {
            let tail = Memory::new(process).read_array(end - TAIL as u64);
            tail.map_or(true, |tail| may_be_call(&tail))
        };
        let all = || code.iter().chain(data);
        let start = all().map(|range| range.start).min().unwrap_or_default();
        let end = all().map(|range| range.end).max().unwrap_or_default();
        let code = code.iter();
        Self {
            code: code
                .map(|range| (range.clone(), ends_in_call(range.end)))
                .collect(),
            data: data.to_vec(),
            span: start..end + 1,
        }
    }

    fn contains(&self, value: TargetAddress) -> bool {
        // The start of a range is a pointer to a function; a return address follows a call.
        let may_return = |(range, ends_in_call): &(Range<TargetAddress>, bool)| {
            range.start < value && (value < range.end || (*ends_in_call && value == range.end))
        };
        self.span.contains(&value)
            && (self.code.iter().any(may_return)
                || self.data.iter().any(|range| range.contains(&value)))
    }
}

/// The memory of the stacks of threads that run on their own ones.
pub fn own_stacks(maps: &Maps, threads: &[ThreadState]) -> Vec<Range<TargetAddress>> {
    let of_thread = |thread: &ThreadState| {
        let stack_pointer = thread.registers.stack_pointer();
        own_stack(thread, stack_pointer, maps.find(stack_pointer)?)
    };
    threads.iter().filter_map(of_thread).collect()
}
