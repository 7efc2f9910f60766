//! Puts the agent into a process, and takes it away again.
//!
//! The agent's memory is one mapping near the dynamic loader: control block, stack, blob, heap. How it is made is in
//! [`crate::agent::memory`].

use std::ops::Range;
use std::time::Duration;

use engraft_abi::{
    AGENT_MAPPING_NAME, CodeRange, Command, Control, MAGIC, MAPPING_LENGTH, VERSION, range_kind,
};
use engraft_process::{
    Maps, Module, Modules, Process, StoppedProcess, StoppedThread, TargetAddress, WalkContext,
    find_gap,
};
use zerocopy::{FromZeros, IntoBytes};

use crate::agent::blob::Blob;
use crate::agent::memory::{random, unmap};
use crate::agent::running::{RunningAgent, has_filter};
use crate::agent::snapshot::Snapshot;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::session::with_thread;
use crate::transition::stack_check::first_not_clear;

const PAGE: u64 = 4096;

/// For remote calls: the signal frame (up to 12 KiB) and the agent's own frames.
const STACK_LENGTH: u64 = 64 * 1024;

/// At least so much of the mapping is left for the agent's lists. Pages that are not used cost nothing.
const HEAP_LENGTH: u64 = 4 << 20;

/// No blob is longer (see its tests).
const LONGEST_BLOB: u64 = 128 << 10;

const _: () = assert!(PAGE + STACK_LENGTH + LONGEST_BLOB + HEAP_LENGTH <= MAPPING_LENGTH);

/// What is in the same cache line as the agent's locks and flags would slow them down.
const HEAP_ALIGNMENT: u64 = 64;

/// Where the parts of the agent's mapping are, from its start: control block, stack, blob, heap. The heap begins
/// in the page in which the blob's variables end: each page costs every target.
pub(crate) struct Layout {
    stack_top: u64,
    pub(crate) blob: u64,
    heap: u64,
}

impl Layout {
    fn of(blob: &Blob) -> Self {
        let start = (size_of::<Control>() as u64).next_multiple_of(PAGE);
        let stack_top = start + STACK_LENGTH;
        Self {
            stack_top,
            blob: stack_top,
            heap: stack_top + blob.end.next_multiple_of(HEAP_ALIGNMENT),
        }
    }

    fn heap_length(&self) -> u64 {
        MAPPING_LENGTH.saturating_sub(self.heap)
    }
}

/// What is found out about a process while it still runs.
pub(crate) struct Injection {
    pub(crate) blob: Blob,
    pub(crate) layout: Layout,
    control: Control,
    pub(crate) around: Range<TargetAddress>,
}

impl Injection {
    /// Prepares to inject the agent into a process with these modules.
    pub(crate) fn plan(process: &Process, modules: &Modules) -> Result<Self, Error> {
        let pid = process.pid();
        let program = modules.program().ok_or(Error::NoProgram { pid })?;
        let headers = program_headers(process, program)?;
        let blob = Blob::embedded()?;
        let layout = Layout::of(&blob);
        let loader = modules.loader();
        let debug = loader.and_then(|loader| loader.interfaces.first());
        let hooked = debug.and_then(|debug| modules.containing(debug.breakpoint));
        let control = Control {
            version: VERSION,
            mapping_length: MAPPING_LENGTH,
            debug: debug.map_or(0, |debug| debug.address.get()),
            unchained: loader.map_or([0; 2], |loader| {
                let Range { start, end } = loader.unchained();
                [start.get(), end.get()]
            }),
            signal_error: loader
                .and_then(|loader| loader.signal_error())
                .map_or(0, TargetAddress::get),
            program_headers: headers.get(),
            program_header_count: program.program_headers.len() as u64,
            program_load_bias: program.load_bias,
            heap_length: layout.heap_length(),
            controlled: 1,
            random: random(),
            filtered: has_filter(process)?.into(),
            has_fsgsbase: has_fsgsbase().into(),
            ..Control::new_zeroed()
        };
        Ok(Self {
            blob,
            layout,
            control,
            around: hooked.unwrap_or(program).range(),
        })
    }

    /// Whether there is room for the agent in a process with this memory map.
    pub(crate) fn has_room(&self, pid: i32, maps: &Maps) -> Result<(), Error> {
        let gap = find_gap(maps, &self.around, MAPPING_LENGTH, PAGE);
        gap.map(drop).ok_or(Error::NoRoom { pid })
    }

    /// Maps and fills the agent's memory. After an error [`remove_remains`](crate::agent::remains::remove_remains) has to
    /// follow.
    pub(crate) fn map(&self, calls: &mut Calls<'_, '_>) -> Result<RunningAgent, Error> {
        let process = calls.process().clone();
        let base = self.make_memory(calls)?;
        let control = self.control_at(base);
        let agent = RunningAgent::new(&process, base, &control)?;
        // The magic comes with the last write: what is complete is an agent.
        process.memory().write(base, control.as_bytes())?;
        Ok(agent)
    }

    fn control_at(&self, base: TargetAddress) -> Control {
        let at = |offset| (base + self.layout.blob + offset).get();
        let text = self.blob.text();
        Control {
            magic: MAGIC,
            enter: at(self.blob.enter),
            restorer: at(self.blob.restorer),
            hook: at(self.blob.hook),
            dispatch: at(self.blob.dispatch),
            text: at(text.start),
            text_length: text.end - text.start,
            stack_top: (base + self.layout.stack_top).get(),
            heap_start: (base + self.layout.heap).get(),
            ..self.control
        }
    }
}

/// Takes an agent without patches out of a process: it lets go of the loader, then its memory goes. The error
/// [`Error::ThreadInside`] if a thread is inside it, so that it has to stay for now. `context` is for walking
/// stacks: calls of the agent leave its addresses on them.
pub(crate) fn remove(
    stopped: &mut StoppedProcess,
    agent: &RunningAgent,
    context: Option<&WalkContext>,
) -> Result<(), Error> {
    let process = stopped.process().clone();
    let pid = process.pid();
    let mapping = agent.mapping()?;
    let maps = process.maps()?;
    let unwinders = Snapshot::read(agent)?.unwinders.into_iter();
    let code = unwinders.map(|it| it.code).filter(|code| !code.is_empty());
    for range in code.chain([mapping.clone()]) {
        let range = CodeRange {
            kind: range_kind::CODE,
            site: 0,
            original: [0; 8],
            start: range.start.get(),
            end: range.end.get(),
            moved: 0,
            name: name_of_agent(),
        };
        if let Some(inside) = first_not_clear(&process, &maps, stopped.threads(), range, context) {
            return Err(inside.inside(&process, 1, Duration::ZERO));
        }
    }
    let mut thread = stopped.calling_thread().ok_or(Error::NoThread { pid })?;
    agent
        .command_writing(&mut thread, Command::Detach, [0; 2])?
        .done(pid)?;
    let mut calls = Calls::In(&mut thread);
    unmap(&mut calls, mapping.start, mapping.end - mapping.start)
}

/// As ranges are named.
fn name_of_agent() -> [u8; 64] {
    let mut name = [0; 64];
    name.iter_mut()
        .zip(AGENT_MAPPING_NAME.bytes())
        .for_each(|(to, from)| *to = from);
    name
}

/// Whether programs may use `rdfsbase`: the processor has it, and the kernel allows it (since Linux 5.9). The
/// target runs on the same machine.
fn has_fsgsbase() -> bool {
    const HWCAP2_FSGSBASE: usize = 1 << 1;
    let (_, capabilities) = rustix::param::linux_hwcap();
    capabilities & HWCAP2_FSGSBASE != 0
}

/// Address of the main program's headers in its memory.
pub(crate) fn program_headers(process: &Process, program: &Module) -> Result<TargetAddress, Error> {
    use object::elf::{PT_LOAD, PT_PHDR};
    const E_PHOFF: u64 = 32;
    if let Some(header) = program
        .program_headers
        .iter()
        .find(|header| header.kind == PT_PHDR)
    {
        return Ok(program.address(header.address));
    }
    let first = program
        .program_headers
        .iter()
        .find(|header| header.kind == PT_LOAD && header.offset == 0)
        .ok_or(Error::NoProgram { pid: process.pid() })?;
    let start = program.address(first.address);
    Ok(start + process.memory().read_u64(start + E_PHOFF)?)
}

/// Where system calls are made in the target.
pub(crate) enum Calls<'a, 't> {
    /// In a thread that stands still anyway.
    In(&'a mut StoppedThread<'t>),
    /// In a thread that is borrowed for each call anew, so that none stands still for long.
    Borrowing {
        process: &'a Process,
        deadline: &'a Deadline,
    },
}

impl<'a, 't> Calls<'a, 't> {
    /// In borrowed threads.
    pub(crate) fn borrowing(process: &'a Process, deadline: &'a Deadline) -> Self {
        Self::Borrowing { process, deadline }
    }

    pub(crate) fn process(&self) -> &Process {
        match self {
            Self::In(thread) => thread.process(),
            Self::Borrowing { process, .. } => process,
        }
    }

    /// Does several things in one thread.
    pub(crate) fn in_thread<R>(
        &mut self,
        work: impl FnOnce(&mut StoppedThread<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        match self {
            Self::In(thread) => work(thread),
            Self::Borrowing { process, deadline } => with_thread(process, deadline, work),
        }
    }

    pub(crate) fn system_call(&mut self, number: i64, arguments: [u64; 6]) -> Result<u64, Error> {
        self.in_thread(|thread| Ok(thread.system_call(number, arguments)?))
    }
}
