//! Injecting the agent into a process.
//!
//! The agent's memory is one mapping near the dynamic loader: control block, stack, blob, heap. It
//! is made in
//! [`crate::agent::memory`].

use std::ops::Range;

use engraft_abi::{Control, MAGIC, MAPPING_LENGTH, VERSION};
use engraft_machine::PAGE_SIZE;
use engraft_process::{Maps, Modules, Process, TargetAddress, find_gap};
use zerocopy::{FromZeros, IntoBytes};

use super::blob::Blob;
use super::calls::Calls;
use super::layout::AgentLayout;
use super::memory::{NewMemory, random};
use super::program_headers::program_headers;
use super::running::{RunningAgent, has_filter};
use crate::error::Error;

/// An injection that is prepared: everything that is known while the process runs undisturbed.
pub(crate) struct Injection {
    blob: Blob,
    layout: AgentLayout,
    control: Control,
    /// The agent is placed near this range.
    around: Range<TargetAddress>,
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
        let memory = NewMemory {
            blob: &self.blob,
            layout: &self.layout,
            around: &self.around,
        };
        let base = memory.make(calls)?;
        let control = self.control_at(base);
        let agent = RunningAgent::new(&process, base, &control)?;
        // The last write brings the magic, by which memory is recognised as an agent that is
        // complete.
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

/// Whether programs may use `rdfsbase`: the processor has it, and the kernel allows it (since Linux
/// 5.9). The target runs on the same machine.
fn has_fsgsbase() -> bool {
    const HWCAP2_FSGSBASE: usize = 1 << 1;
    let (_, capabilities) = rustix::param::linux_hwcap();
    capabilities & HWCAP2_FSGSBASE != 0
}
