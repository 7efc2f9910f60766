//! Suspended contexts that are inside of some code, found by scanning memory.

use std::time::{Duration, Instant};

use engraft_abi::CodeRange;
use engraft_process::{
    FoundWord, Maps, MemoryScan, TargetAddress, ThreadState, UserContext, own_stacks,
};

use super::stack_check::BlockedThread;
use crate::agent::plan::{addresses, function_name};
use crate::agent::snapshot::Snapshot;
use crate::error::{BlockReason, Error, Suspended};
use crate::session::Session;

/// How long a scan of memory may take where nearly all of the user's time is up.
const SHORTEST_SCAN: Duration = Duration::from_millis(500);

/// The first suspended context that may return into the code or use the data. All threads are
/// stopped.
pub(crate) fn find_suspended(
    session: &Session<'_>,
    threads: &[ThreadState],
    code: &[CodeRange],
    data: &[CodeRange],
) -> Result<Option<Suspended>, Error> {
    let since = Instant::now();
    let process = session.process;
    let maps = process.maps()?;
    let until = session.backoff.end().max(since + SHORTEST_SCAN);
    let snapshot = Snapshot::read(&session.agent)?;
    let mut ours = vec![session.agent.mapping()?];
    ours.extend(snapshot.images(None).map(|image| image.range.clone()));
    // The data of a disabled patch refers to its own code.
    ours.extend(addresses(data));
    // The stacks of threads are checked thread by thread.
    let skipped = [own_stacks(&maps, threads), ours.clone()].concat();
    let scan = MemoryScan::new(process, &maps, skipped, until);
    let words = scan.words(&addresses(code), &addresses(data))?;
    let found = match words.is_empty() || !session.contexts.are_recognisable() {
        true => words.first().map(|word| (*word, false)),
        false => {
            let contexts = MemoryScan::new(process, &maps, ours, until).user_contexts()?;
            of_contexts(&maps, &words, &contexts).map(|word| (word, true))
        }
    };
    session.contexts.note_scan(since.elapsed());
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

/// If a suspended context is inside the code, no thread may switch, because any may resume the
/// context. Returns a function that makes a clear thread a blocked one. All threads are stopped.
pub(super) fn block_on_suspended(
    session: &Session<'_>,
    threads: &[ThreadState],
    code: &[CodeRange],
) -> Result<Option<impl Fn(&ThreadState) -> BlockedThread + use<>>, Error> {
    if !session.contexts.are_scanned() {
        return Ok(None);
    }
    let Some(suspended) = find_suspended(session, threads, code, &[])? else {
        return Ok(None);
    };
    let (function, frame) = (suspended.function.clone(), suspended.to_string());
    Ok(Some(move |thread: &ThreadState| {
        let reason = BlockReason::ContextSuspended;
        BlockedThread::new(thread, reason, function.clone(), Some(frame.clone()))
    }))
}
