//! Finding suspended contexts that are inside of some code.

use std::fmt;
use std::time::{Duration, Instant};

use engraft_abi::CodeRange;
use engraft_process::{
    FoundWord, Maps, MemoryScan, TargetAddress, ThreadState, UserContext, own_stacks,
};

use crate::agent::snapshot::Snapshot;
use crate::error::Error;
use crate::error::in_the_way::Inside;
use crate::session::Session;
use crate::transition::stack_check::{Finding, addresses, function_name};

/// How long a look through memory may take where nearly all of the user's time is up.
const SHORTEST_LOOK: Duration = Duration::from_millis(500);

/// A word that a suspended context may return to, or may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspended {
    /// Where it is,
    pub at: TargetAddress,
    /// in what memory, by the kernel's name or "anonymous memory",
    pub memory: String,
    /// and what it is.
    pub value: TargetAddress,
    /// What that is in.
    pub function: String,
    /// Whether it belongs to a context that is known to be suspended. If not, it may be left over from a call
    /// that has returned.
    pub certain: bool,
}

impl fmt::Display for Suspended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            at, memory, value, ..
        } = self;
        match self.certain {
            true => write!(
                f,
                "a context that swapcontext has suspended holds the address {value} at {at} in {memory}"
            ),
            false => write!(
                f,
                "the address {value} at {at} in {memory} may be a suspended context's, or left over"
            ),
        }
    }
}

/// The first suspended context that may return into code or use data. Everybody stands still.
pub(crate) fn first_suspended(
    session: &Session<'_>,
    threads: &[ThreadState],
    code: &[CodeRange],
    data: &[CodeRange],
) -> Result<Option<Suspended>, Error> {
    let since = Instant::now();
    let process = session.process;
    let maps = process.maps()?;
    let until = session.deadline.end().max(since + SHORTEST_LOOK);
    let snapshot = Snapshot::read(&session.agent)?;
    let mut ours = vec![session.agent.mapping()?];
    ours.extend(snapshot.images(None).map(|image| image.range.clone()));
    // A disabled patch's own data refers to its code.
    ours.extend(addresses(data));
    // What threads have on their own stacks is looked at there.
    let not_for_words = [own_stacks(&maps, threads), ours.clone()].concat();
    let scan = MemoryScan::new(process, &maps, not_for_words, until);
    let words = scan.words(&addresses(code), &addresses(data))?;
    let found = match words.is_empty() || !session.contexts.are_recognisable() {
        true => words.first().map(|word| (*word, false)),
        false => {
            let contexts = MemoryScan::new(process, &maps, ours, until).user_contexts()?;
            of_contexts(&maps, &words, &contexts).map(|word| (word, true))
        }
    };
    session.contexts.note_look(since.elapsed());
    Ok(found.map(|(FoundWord { at, value }, certain)| Suspended {
        at,
        memory: memory_name(&maps, at),
        value,
        function: function_at(&[code, data].concat(), value),
        certain,
    }))
}

/// The first of some words that a suspended context holds.
fn of_contexts(maps: &Maps, words: &[FoundWord], contexts: &[UserContext]) -> Option<FoundWord> {
    let end_of_memory = |stack_pointer: TargetAddress| {
        let mapping = maps.find(stack_pointer);
        mapping.map_or(stack_pointer, |mapping| mapping.range.end)
    };
    let is_held = |word: &&FoundWord| {
        let mut contexts = contexts.iter();
        contexts.any(|context| context.holds(word.at, end_of_memory))
    };
    words.iter().find(is_held).copied()
}

fn memory_name(maps: &Maps, at: TargetAddress) -> String {
    let name = maps.find(at).map(|mapping| mapping.name.to_string_lossy());
    let name = name.filter(|name| !name.is_empty());
    name.map_or_else(
        || "anonymous memory".to_owned(),
        |name| name.escape_debug().to_string(),
    )
}

fn function_at(ranges: &[CodeRange], value: TargetAddress) -> String {
    let value = value.get();
    let mut ranges = ranges.iter();
    let range = ranges.find(|range| range.start <= value && value <= range.end);
    range.map(function_name).unwrap_or_default()
}

/// Why no thread may switch although it is clear: a suspended context is inside, which any of them may go on with. A
/// finding for each thread that is clear. Everybody stands still.
pub(crate) fn held(
    session: &Session<'_>,
    threads: &[ThreadState],
    code: &[CodeRange],
) -> Result<Option<impl Fn(&ThreadState) -> Finding + use<>>, Error> {
    if !session.contexts.are_looked_for() {
        return Ok(None);
    }
    let Some(suspended) = first_suspended(session, threads, code, &[])? else {
        return Ok(None);
    };
    let (function, frame) = (suspended.function.clone(), suspended.to_string());
    Ok(Some(move |thread: &ThreadState| Finding {
        tid: thread.tid,
        pointer: thread.registers.thread_pointer().get(),
        place: (
            thread.registers.stack_pointer(),
            thread.registers.instruction_pointer(),
        ),
        reason: Inside::Held,
        function: function.clone(),
        frame: Some(frame.clone()),
        door: None,
    }))
}
