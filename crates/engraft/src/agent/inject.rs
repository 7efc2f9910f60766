//! Injecting the agent into a process.
//!
//! The agent's memory is one mapping near the dynamic loader: control block, stack, blob, heap. It is made in
//! [`crate::agent::memory`].

use std::ops::Range;

use engraft_abi::{Control, MAGIC, MAPPING_LENGTH, VERSION};
use engraft_machine::PAGE_SIZE;
use engraft_process::{Maps, Modules, Process, TargetAddress, find_gap};
use zerocopy::{FromZeros, IntoBytes};

use super::blob::Blob;
use super::calls::Calls;
use super::memory::random;
use super::program_headers::program_headers;
use super::running::{RunningAgent, has_filter};
use crate::error::Error;

/// Size of the stack for remote calls: the signal frame (up to 12 KiB) and the agent's own frames.
const STACK_LENGTH: u64 = 64 * 1024;

/// At least so much of the mapping is left for the agent's lists. Unused pages cost nothing.
const HEAP_LENGTH: u64 = 4 << 20;

/// The longest blob that there may be; a test of the blob checks it.
const LONGEST_BLOB: u64 = 128 << 10;

const _: () = assert!(PAGE_SIZE + STACK_LENGTH + LONGEST_BLOB + HEAP_LENGTH <= MAPPING_LENGTH);

/// Keeps the heap out of the cache line of the agent's locks and flags, which it would slow down.
const HEAP_ALIGNMENT: u64 = 64;

/// The offsets of the parts of the agent's mapping: control block, stack, blob, heap. The heap begins in the page in
/// which the blob's variables end, because each page costs every target.
pub(crate) struct AgentLayout {
    stack_top: u64,
    pub(crate) blob: u64,
    heap: u64,
}

impl AgentLayout {
    fn of(blob: &Blob) -> Self {
        let start = (size_of::<Control>() as u64).next_multiple_of(PAGE_SIZE);
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

/// An injection that is prepared: everything that is known while the process runs undisturbed.
pub(crate) struct Injection {
    pub(crate) blob: Blob,
    pub(crate) layout: AgentLayout,
    control: Control,
    /// The agent is placed near this range.
    pub(crate) around: Range<TargetAddress>,
}

impl Injection {
    /// Prepares to inject the agent into a process with these modules.
    pub(crate) fn plan(process: &Process, modules: &Modules) -> Result<Self, Error> {
        let pid = process.pid();
        let program = modules.program().ok_or(Error::NoProgram { pid })?;
        let headers = program_headers(process, program)?;
        let blob = Blob::embedded()?;
        let layout = AgentLayout::of(&blob);
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
        let gap = find_gap(maps, &self.around, MAPPING_LENGTH, PAGE_SIZE);
        gap.map(drop).ok_or(Error::NoRoom { pid })
    }

    /// Maps and fills the agent's memory. After an error, the caller calls
    /// [`leftovers::remove`](crate::agent::leftovers::remove).
    pub(crate) fn map(&self, calls: &mut Calls<'_, '_>) -> Result<RunningAgent, Error> {
        let process = calls.process().clone();
        let base = self.make_memory(calls)?;
        let control = self.control_at(base);
        let agent = RunningAgent::new(&process, base, &control)?;
        // The last write brings the magic, by which memory is recognised as an agent that is complete.
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

/// Whether programs may use `rdfsbase`: the processor has it, and the kernel allows it (since Linux 5.9). The
/// target runs on the same machine.
fn has_fsgsbase() -> bool {
    const HWCAP2_FSGSBASE: usize = 1 << 1;
    let (_, capabilities) = rustix::param::linux_hwcap();
    capabilities & HWCAP2_FSGSBASE != 0
}
