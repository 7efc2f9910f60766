//! Puts the agent into a process, and takes it away again.
//!
//! The agent's memory is one mapping near the dynamic loader: control block, blob, stack, heap. It maps a
//! memory file, so that it has a name in /proc/PID/maps and no page is ever writable and executable; where
//! there are no memory files, anonymous memory is used, and filled from outside.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use engraft_abi::{AGENT_MAPPING_NAME, Command, Control, MAGIC, VERSION};
use engraft_process::{
    Maps, Module, Modules, Process, RemoteCallError, StackScan, StoppedProcess, StoppedThread,
    TargetAddress, Verdict, find_gap,
};
use zerocopy::{FromZeros, IntoBytes};

use crate::agent::{RunningAgent, has_filter};
use crate::blob::{Blob, Protection, Segment};
use crate::error::Error;

const PAGE: u64 = 4096;

/// For remote calls: the signal frame (up to 12 KiB) and the agent's own frames.
const STACK_LENGTH: u64 = 64 * 1024;

/// Room for the agent's lists. Pages that are not used cost nothing.
const HEAP_LENGTH: u64 = 512 * 1024;

/// Where the parts of the agent's mapping are, from its start.
struct Layout {
    blob: u64,
    stack_top: u64,
    heap: u64,
    length: u64,
}

impl Layout {
    fn of(blob: &Blob) -> Self {
        let start = (size_of::<Control>() as u64).next_multiple_of(PAGE);
        let stack_top = start + blob.length + STACK_LENGTH;
        Self {
            blob: start,
            stack_top,
            heap: stack_top,
            length: stack_top + HEAP_LENGTH,
        }
    }
}

/// What is found out about a process while it still runs.
pub(crate) struct Injection {
    blob: Blob,
    layout: Layout,
    control: Control,
    around: std::ops::Range<TargetAddress>,
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
            signal_error: loader
                .and_then(|loader| loader.signal_error())
                .map_or(0, TargetAddress::get),
            program_headers: headers.get(),
            program_header_count: program.program_headers.len() as u64,
            program_load_bias: program.load_bias,
            heap_length: HEAP_LENGTH,
            filtered: has_filter(process)?.into(),
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
        let gap = find_gap(maps, &self.around, self.layout.length, PAGE);
        gap.map(drop).ok_or(Error::NoRoom { pid })
    }

    /// Maps and fills the agent's memory. After an error nothing is left of it.
    pub(crate) fn map(&self, thread: &mut StoppedThread<'_>) -> Result<RunningAgent, Error> {
        let process = thread.process().clone();
        let base = self.reserve(thread)?;
        let mapped = self.fill(thread, base).and_then(|control| {
            let agent = RunningAgent::new(&process, base, &control)?;
            process.memory().write(base, control.as_bytes())?;
            Ok(agent)
        });
        mapped.inspect_err(|_| {
            let unmapped = unmap(thread, base, self.layout.length);
            if let Err(error) = unmapped {
                tracing::warn!(%error, "failed to unmap what was to become the agent");
            }
        })
    }

    /// A free range near the loader, so that a short jump in its break function reaches the agent.
    fn reserve(&self, thread: &mut StoppedThread<'_>) -> Result<TargetAddress, Error> {
        const EEXIST: i32 = libc::EEXIST;
        let process = thread.process().clone();
        let pid = process.pid();
        let length = self.layout.length;
        // The other threads go on, and may be faster.
        for _ in 0..16 {
            let gap = find_gap(&process.maps()?, &self.around, length, PAGE);
            let gap = gap.ok_or(Error::NoRoom { pid })?;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            match map(thread, gap, length, protection, flags, None) {
                Ok(address) if address == gap => return Ok(gap),
                // A kernel before 4.17 takes the flag for a hint.
                Ok(address) => unmap(thread, address, length)?,
                Err(Error::RemoteCall(RemoteCallError::SystemCall { errno: EEXIST, .. })) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::NoRoom { pid })
    }

    /// Gives the range its content and protection; the control block, not yet written.
    fn fill(&self, thread: &mut StoppedThread<'_>, base: TargetAddress) -> Result<Control, Error> {
        let process = thread.process().clone();
        let blob_base = base + self.layout.blob;
        let content = self.blob.at(blob_base.get());
        let file = MemoryFile::create(thread, base, self.layout.blob, &content);
        if let Err(error) = &file {
            tracing::debug!(%error, "no memory file for the agent; using anonymous memory");
        }
        let file = file.ok();
        if let Some(file) = &file {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_FIXED;
            map(
                thread,
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
            map(thread, blob_base + offset, length, protection, flags, place)?;
        }
        match file {
            Some(file) => file.close(thread)?,
            None => {
                process.memory().write_protected(blob_base, &content)?;
                name_anonymous(thread, base, self.layout.length)?;
            }
        }
        let at = |offset| (blob_base + offset).get();
        Ok(Control {
            magic: MAGIC,
            enter: at(self.blob.enter),
            restorer: at(self.blob.restorer),
            hook: at(self.blob.hook),
            stack_top: (base + self.layout.stack_top).get(),
            heap_start: (base + self.layout.heap).get(),
            ..self.control
        })
    }
}

/// Takes an agent without patches out of a process: it lets go of the loader, then its memory goes. False
/// if a thread is inside it, so that it has to stay for now.
pub(crate) fn remove(stopped: &mut StoppedProcess, agent: &RunningAgent) -> Result<bool, Error> {
    let process = stopped.process().clone();
    let pid = process.pid();
    let mapping = agent.mapping()?;
    let maps = process.maps()?;
    let scan = StackScan::new(&process, &maps, std::slice::from_ref(&mapping));
    if !stopped
        .threads()
        .all(|thread| matches!(scan.check(&thread), Verdict::Clear))
    {
        return Ok(false);
    }
    let mut thread = stopped.calling_thread().ok_or(Error::NoThread { pid })?;
    agent
        .command(&mut thread, Command::Detach, [0; 2])?
        .done(pid)?;
    unmap(&mut thread, mapping.start, mapping.end - mapping.start)?;
    Ok(true)
}

/// Address of the main program's headers in its memory.
fn program_headers(process: &Process, program: &Module) -> Result<TargetAddress, Error> {
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

/// A memory file, open in the target.
struct MemoryFile {
    descriptor: u64,
}

impl MemoryFile {
    /// Makes one with `content` at `offset`. `scratch` is memory of the target for its name.
    fn create(
        thread: &mut StoppedThread<'_>,
        scratch: TargetAddress,
        offset: u64,
        content: &[u8],
    ) -> Result<Self, Error> {
        let process = thread.process().clone();
        let mut name = AGENT_MAPPING_NAME.as_bytes().to_vec();
        name.push(0);
        process.memory().write(scratch, &name)?;
        let flags = u64::from(libc::MFD_CLOEXEC);
        let arguments = [scratch.get(), flags, 0, 0, 0, 0];
        let descriptor = system_call(thread, libc::SYS_memfd_create, arguments)?;
        let file = Self { descriptor };
        // The thread's: the process's own files are those of its first thread, which may have ended.
        let (pid, tid) = (process.pid(), thread.state().tid);
        let path = PathBuf::from(format!("/proc/{pid}/task/{tid}/fd/{descriptor}"));
        let written = OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|memory| {
                memory.set_len(offset + content.len() as u64 + STACK_LENGTH + HEAP_LENGTH)?;
                memory.write_all_at(content, offset)
            });
        match written {
            Ok(()) => Ok(file),
            Err(source) => {
                file.close(thread)?;
                Err(Error::WriteFile { path, source })
            }
        }
    }

    fn close(self, thread: &mut StoppedThread<'_>) -> Result<(), Error> {
        system_call(thread, libc::SYS_close, [self.descriptor, 0, 0, 0, 0, 0]).map(drop)
    }
}

fn system_call(
    thread: &mut StoppedThread<'_>,
    number: i64,
    arguments: [u64; 6],
) -> Result<u64, Error> {
    Ok(thread.system_call(number, arguments)?)
}

fn map(
    thread: &mut StoppedThread<'_>,
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
    system_call(thread, libc::SYS_mmap, arguments).map(TargetAddress::new)
}

fn unmap(thread: &mut StoppedThread<'_>, address: TargetAddress, length: u64) -> Result<(), Error> {
    system_call(
        thread,
        libc::SYS_munmap,
        [address.get(), length, 0, 0, 0, 0],
    )
    .map(drop)
}

/// Gives anonymous memory a name in /proc/PID/maps. Kernels before 5.17 have no such names, and then this
/// agent cannot be found again: so a failure counts.
fn name_anonymous(
    thread: &mut StoppedThread<'_>,
    base: TargetAddress,
    length: u64,
) -> Result<(), Error> {
    const PR_SET_VMA: u64 = 0x5356_4d41;
    const PR_SET_VMA_ANON_NAME: u64 = 0;
    let mut name = AGENT_MAPPING_NAME.as_bytes().to_vec();
    name.push(0);
    thread.process().memory().write(base, &name)?;
    let arguments = [
        PR_SET_VMA,
        PR_SET_VMA_ANON_NAME,
        base.get(),
        length,
        base.get(),
        0,
    ];
    system_call(thread, libc::SYS_prctl, arguments).map(drop)
}
