//! Puts the agent into a process, and takes it away again.
//!
//! The agent's memory is one mapping near the dynamic loader: control block, stack, blob, heap. It maps a
//! memory file, so that it has a name in /proc/PID/maps and no page is ever writable and executable; where
//! there are no memory files, anonymous memory is used, and filled from outside. In case that cannot have a name
//! either, a landmark is in it (see [`crate::whereabouts`]).

use std::cell::Cell;
use std::fs::OpenOptions;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use engraft_abi::{
    AGENT_MAPPING_NAME, CodeRange, Command, Control, LANDMARK_MAGIC, Landmark, MAGIC, VERSION,
};
use engraft_process::{
    Maps, Module, Modules, Process, RemoteCallError, StoppedProcess, StoppedThread, TargetAddress,
    WalkContext, find_gap,
};
use zerocopy::{FromZeros, IntoBytes};

use crate::agent::{RunningAgent, has_filter};
use crate::blob::{Blob, Protection, Segment};
use crate::deadline::Deadline;
use crate::error::Error;
use crate::look::first_not_clear;
use crate::session::with_thread;
use crate::status::Snapshot;
use crate::whereabouts::whereabouts;

const PAGE: u64 = 4096;

/// For remote calls: the signal frame (up to 12 KiB) and the agent's own frames.
const STACK_LENGTH: u64 = 64 * 1024;

/// Room for the agent's lists. Pages that are not used cost nothing.
const HEAP_LENGTH: u64 = 4 << 20;

/// What is in the same cache line as the agent's locks and flags would slow them down.
const HEAP_ALIGNMENT: u64 = 64;

/// Where the parts of the agent's mapping are, from its start: control block, stack, blob, heap. The heap begins
/// in the page in which the blob's variables end: each page costs every target.
struct Layout {
    stack_top: u64,
    blob: u64,
    heap: u64,
    length: u64,
}

impl Layout {
    fn of(blob: &Blob) -> Self {
        let start = (size_of::<Control>() as u64).next_multiple_of(PAGE);
        let stack_top = start + STACK_LENGTH;
        Self {
            stack_top,
            blob: stack_top,
            heap: stack_top + blob.end.next_multiple_of(HEAP_ALIGNMENT),
            length: stack_top + blob.length + HEAP_LENGTH,
        }
    }

    fn heap_length(&self) -> u64 {
        self.length - self.heap
    }
}

/// What is found out about a process while it still runs.
pub(crate) struct Injection {
    blob: Blob,
    layout: Layout,
    control: Control,
    around: Range<TargetAddress>,
    /// What may be there if mapping has failed: where the agent was to be, and an open file.
    left: Cell<(Option<TargetAddress>, Option<u64>)>,
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
            mapping_length: layout.length,
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
            filtered: has_filter(process)?.into(),
            has_fsgsbase: has_fsgsbase().into(),
            ..Control::new_zeroed()
        };
        Ok(Self {
            blob,
            layout,
            control,
            around: hooked.unwrap_or(program).range(),
            left: Cell::default(),
        })
    }

    /// Whether there is room for the agent in a process with this memory map.
    pub(crate) fn has_room(&self, pid: i32, maps: &Maps) -> Result<(), Error> {
        let gap = find_gap(maps, &self.around, self.layout.length, PAGE);
        gap.map(drop).ok_or(Error::NoRoom { pid })
    }

    /// Maps and fills the agent's memory. After an error [`clean`](Self::clean) has to follow.
    pub(crate) fn map(&self, calls: &mut Calls<'_, '_>) -> Result<RunningAgent, Error> {
        let process = calls.process().clone();
        let base = self.reserve(calls)?;
        let control = self.fill(calls, base)?;
        let agent = RunningAgent::new(&process, base, &control)?;
        // The magic comes with the last write: what is complete is an agent.
        process.memory().write(base, control.as_bytes())?;
        Ok(agent)
    }

    /// Takes away what a failure has left.
    pub(crate) fn clean(&self, calls: &mut Calls<'_, '_>) -> Result<(), Error> {
        let (base, descriptor) = self.left.take();
        if let Some(descriptor) = descriptor {
            MemoryFile { descriptor }.close(calls)?;
        }
        let maps = calls.process().maps()?;
        let is_ours = |base: &TargetAddress| {
            maps.find(*base)
                .is_some_and(|mapping| mapping.range.start == *base)
        };
        match base.filter(is_ours) {
            Some(base) => unmap(calls, base, self.layout.length),
            None => Ok(()),
        }
    }

    /// A free range near the loader, so that a short jump in its break function reaches the agent.
    fn reserve(&self, calls: &mut Calls<'_, '_>) -> Result<TargetAddress, Error> {
        const EEXIST: i32 = libc::EEXIST;
        let process = calls.process().clone();
        let pid = process.pid();
        let length = self.layout.length;
        // The other threads go on, and may be faster.
        for _ in 0..16 {
            let gap = find_gap(&process.maps()?, &self.around, length, PAGE);
            let gap = gap.ok_or(Error::NoRoom { pid })?;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            self.left.set((Some(gap), None));
            match map(calls, gap, length, protection, flags, None) {
                Ok(address) if address == gap => return Ok(gap),
                // A kernel before 4.17 takes the flag for a hint.
                Ok(address) => unmap(calls, address, length)?,
                Err(Error::RemoteCall(RemoteCallError::SystemCall { errno: EEXIST, .. })) => {
                    // What is there is the program's.
                    self.left.set((None, None));
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::NoRoom { pid })
    }

    /// Gives the range its content and protection; the control block, not yet written.
    fn fill(&self, calls: &mut Calls<'_, '_>, base: TargetAddress) -> Result<Control, Error> {
        let process = calls.process().clone();
        let blob_base = base + self.layout.blob;
        let mut content = self.blob.at(blob_base.get());
        let landmark = Landmark {
            magic: LANDMARK_MAGIC,
            address: blob_base.get(),
            control: base.get(),
            length: self.layout.length,
        };
        content
            .iter_mut()
            .zip(landmark.as_bytes())
            .for_each(|(to, from)| *to = *from);
        let file = MemoryFile::create(calls, base, &self.layout, &self.blob.pieces(&content));
        if let Err(error) = &file {
            tracing::debug!(%error, "no memory file for the agent; using anonymous memory");
        }
        let file = file.ok();
        let descriptor = file.as_ref().map(|file| file.descriptor);
        self.left.set((Some(base), descriptor));
        if let Some(file) = &file {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_FIXED;
            map(
                calls,
                base,
                self.layout.length,
                protection,
                flags,
                Some((file, 0)),
            )?;
        }
        for segment in &self.blob.segments {
            let Segment {
                offset,
                length,
                protection,
            } = *segment;
            let protection = match protection {
                Protection::Read => libc::PROT_READ,
                Protection::ReadExecute => libc::PROT_READ | libc::PROT_EXEC,
                Protection::ReadWrite => continue,
            };
            let (flags, place) = match &file {
                Some(file) => (0, Some((file, self.layout.blob + offset))),
                None => (libc::MAP_ANONYMOUS, None),
            };
            let flags = flags | libc::MAP_PRIVATE | libc::MAP_FIXED;
            map(calls, blob_base + offset, length, protection, flags, place)?;
        }
        match file {
            Some(file) => {
                // Before: whether it was closed may not be known, and its number may be the program's by then.
                self.left.set((Some(base), None));
                file.close(calls)?;
            }
            None => {
                process.memory().write_protected(blob_base, &content)?;
                name_anonymous(calls, base, self.layout.length)?;
            }
        }
        let at = |offset| (blob_base + offset).get();
        let text = self.blob.text();
        Ok(Control {
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
        })
    }
}

/// Takes away what injections that did not come to an end have left. Whoever began them has died: one controller
/// works on a process at a time.
pub(crate) fn remove_remains(process: &Process, deadline: &Deadline) -> Result<(), Error> {
    let mut calls = Calls::borrowing(process, deadline);
    for range in whereabouts(process)? {
        unmap(&mut calls, range.start, range.end - range.start)?;
    }
    Ok(())
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
            start: range.start.get(),
            end: range.end.get(),
            name: name_of_agent(),
        };
        if let Some(inside) = first_not_clear(&process, &maps, stopped.threads(), range, context) {
            return Err(inside.inside(&process, Duration::ZERO));
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
        /// The last one's number.
        tid: i32,
    },
}

impl<'a> Calls<'a, '_> {
    /// In borrowed threads.
    pub(crate) fn borrowing(process: &'a Process, deadline: &'a Deadline) -> Self {
        Self::Borrowing {
            process,
            deadline,
            tid: process.pid(),
        }
    }

    fn process(&self) -> &Process {
        match self {
            Self::In(thread) => thread.process(),
            Self::Borrowing { process, .. } => process,
        }
    }

    /// The thread that made the last call.
    fn tid(&self) -> i32 {
        match self {
            Self::In(thread) => thread.state().tid,
            Self::Borrowing { tid, .. } => *tid,
        }
    }

    fn system_call(&mut self, number: i64, arguments: [u64; 6]) -> Result<u64, Error> {
        match self {
            Self::In(thread) => Ok(thread.system_call(number, arguments)?),
            Self::Borrowing {
                process,
                deadline,
                tid,
            } => with_thread(process, deadline, |thread| {
                *tid = thread.state().tid;
                Ok(thread.system_call(number, arguments)?)
            }),
        }
    }
}

/// A memory file, open in the target.
struct MemoryFile {
    descriptor: u64,
}

impl MemoryFile {
    /// Makes one with the blob's `pieces`. `scratch` is memory of the target for its name.
    fn create(
        calls: &mut Calls<'_, '_>,
        scratch: TargetAddress,
        layout: &Layout,
        pieces: &[(u64, &[u8])],
    ) -> Result<Self, Error> {
        let process = calls.process().clone();
        let mut name = AGENT_MAPPING_NAME.as_bytes().to_vec();
        name.push(0);
        process.memory().write(scratch, &name)?;
        let flags = u64::from(libc::MFD_CLOEXEC);
        let arguments = [scratch.get(), flags, 0, 0, 0, 0];
        let descriptor = calls.system_call(libc::SYS_memfd_create, arguments)?;
        let file = Self { descriptor };
        // The thread's: the process's own files are those of its first thread, which may have ended.
        let (pid, tid) = (process.pid(), calls.tid());
        let path = PathBuf::from(format!("/proc/{pid}/task/{tid}/fd/{descriptor}"));
        let written = OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|memory| {
                memory.set_len(layout.length)?;
                // Not what is between them: a page that nobody writes is no page.
                let mut pieces = pieces.iter();
                pieces.try_for_each(|(offset, piece)| {
                    memory.write_all_at(piece, layout.blob + offset)
                })
            });
        match written {
            Ok(()) => Ok(file),
            Err(source) => {
                file.close(calls)?;
                Err(Error::WriteFile { path, source })
            }
        }
    }

    fn close(self, calls: &mut Calls<'_, '_>) -> Result<(), Error> {
        calls
            .system_call(libc::SYS_close, [self.descriptor, 0, 0, 0, 0, 0])
            .map(drop)
    }
}

fn map(
    calls: &mut Calls<'_, '_>,
    address: TargetAddress,
    length: u64,
    protection: i32,
    flags: i32,
    file: Option<(&MemoryFile, u64)>,
) -> Result<TargetAddress, Error> {
    let (descriptor, offset) =
        file.map_or((u64::MAX, 0), |(file, offset)| (file.descriptor, offset));
    let arguments = [
        address.get(),
        length,
        protection as u64,
        flags as u64,
        descriptor,
        offset,
    ];
    calls
        .system_call(libc::SYS_mmap, arguments)
        .map(TargetAddress::new)
}

fn unmap(calls: &mut Calls<'_, '_>, address: TargetAddress, length: u64) -> Result<(), Error> {
    calls
        .system_call(libc::SYS_munmap, [address.get(), length, 0, 0, 0, 0])
        .map(drop)
}

/// Gives anonymous memory a name in /proc/PID/maps, for people who read that, if the kernel has such names.
fn name_anonymous(
    calls: &mut Calls<'_, '_>,
    base: TargetAddress,
    length: u64,
) -> Result<(), Error> {
    const PR_SET_VMA: u64 = 0x5356_4d41;
    const PR_SET_VMA_ANON_NAME: u64 = 0;
    let mut name = AGENT_MAPPING_NAME.as_bytes().to_vec();
    name.push(0);
    calls.process().memory().write(base, &name)?;
    let arguments = [
        PR_SET_VMA,
        PR_SET_VMA_ANON_NAME,
        base.get(),
        length,
        base.get(),
        0,
    ];
    match calls.system_call(libc::SYS_prctl, arguments) {
        Err(Error::RemoteCall(RemoteCallError::SystemCall { .. })) => Ok(()),
        named => named.map(drop),
    }
}
