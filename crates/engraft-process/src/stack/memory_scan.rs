//! Looking through all writable memory for words that may be return addresses: of contexts that are suspended on no
//! thread's stack.
//!
//! Only private memory is looked at, and of that the pages which the program has touched: stacks are nowhere else.
//! What is found may also be a left-over of a call that returned long ago. Contexts of `swapcontext` can be told from
//! that ([`UserContext`]).

use std::fs::File;
use std::ops::Range;
use std::time::Instant;

use crate::elf::headers::word;
use crate::memory::access::MemoryError;
use crate::memory::maps::{Mapping, Maps};
use crate::memory::resident::touched_pages;
use crate::process::handle::Process;
use crate::stack::call_site::{TAIL, may_be_call};
use crate::stack::scan::is_own_stack;
use crate::stack::user_context::UserContext;
use crate::stop::stopped_thread::ThreadState;
use crate::sys::address::TargetAddress;

/// Read in pieces of this size.
const PIECE: u64 = 1 << 20;
/// More words say no more.
const MOST_WORDS: usize = 1 << 14;
/// A program has fewer contexts.
const MOST_CONTEXTS: usize = 1 << 16;

/// Why memory could not be looked through.
#[derive(Debug, thiserror::Error)]
pub enum MemoryScanError {
    /// There is too much of it.
    #[error(
        "the writable memory of process {pid} could not be looked through in time: {looked_at} bytes were"
    )]
    TimedOut {
        /// The process.
        pid: i32,
        /// How much could be.
        looked_at: u64,
    },
    /// There is no end to what looks like contexts.
    #[error("process {pid} has more than {MOST_CONTEXTS} suspended contexts")]
    TooManyContexts {
        /// The process.
        pid: i32,
    },
    /// It could not be read.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// A word in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundWord {
    /// Where it is.
    pub at: TargetAddress,
    /// What it is.
    pub value: TargetAddress,
}

/// A scan of the memory of a process, whose map must be of the present stop.
#[derive(Debug)]
pub struct MemoryScan<'s> {
    process: &'s Process,
    maps: &'s Maps,
    /// Memory that is none of the program's, or is looked at in another way.
    excluded: Vec<Range<TargetAddress>>,
    until: Instant,
}

impl<'s> MemoryScan<'s> {
    /// Prepares a scan of all memory but `excluded` that ends in time.
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

    /// Words that may be return addresses into code, or addresses in data.
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

    /// Shows all memory, page by page or more at a time, as long as that is wanted.
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
                        match self.process.memory().read(run.start, place) {
                            // Nothing that the program can read, either.
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

    /// What is left of a range without what is excluded.
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

/// Whether a program may have stacks there. Devices are not even to be read.
fn may_hold_stacks(mapping: &Mapping) -> bool {
    let is_device = mapping.name.as_encoded_bytes().starts_with(b"/dev/");
    mapping.readable && mapping.writable && !mapping.shared && !is_device
}

/// What is looked for.
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
            let tail = process.memory().read_array(end - TAIL as u64);
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
        // An entry is a pointer to a function; whoever returns comes back behind a call.
        let may_return = |(range, ends_in_call): &(Range<TargetAddress>, bool)| {
            range.start < value && (value < range.end || (*ends_in_call && value == range.end))
        };
        self.span.contains(&value)
            && (self.code.iter().any(may_return)
                || self.data.iter().any(|range| range.contains(&value)))
    }
}

/// The memory of the stacks that threads run on, where these are their own: from its lower end to where the thread's
/// control block is. What lies above that may belong to something else.
pub fn own_stacks(maps: &Maps, threads: &[ThreadState]) -> Vec<Range<TargetAddress>> {
    let own_stack = |thread: &ThreadState| {
        let stack_pointer = thread.registers.stack_pointer();
        let mapping = maps.find(stack_pointer)?;
        let end = match mapping.range.contains(&thread.registers.thread_pointer()) {
            true => thread.registers.thread_pointer(),
            false => mapping.range.end,
        };
        is_own_stack(thread, stack_pointer, mapping).then_some(mapping.range.start..end)
    };
    threads.iter().filter_map(own_stack).collect()
}
