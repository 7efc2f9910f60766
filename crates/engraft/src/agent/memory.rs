//! Making the agent's memory in a process. A later command finds the memory even if the controller
//! is killed at any point here.
//!
//! The memory is a mapping of a memory file of the target. So it has a name in /proc/PID/maps from
//! the first instant, and no page is ever writable and executable. The file is made and mapped by
//! system calls in the target, and filled through the mapping, which is writable then. Its
//! descriptor is never opened from outside: by then another thread may have put any other file in
//! its place.
//!
//! Where there are no memory files, anonymous memory is used, and filled from outside. It starts in
//! a form that no program has a use for: executable memory of [`MAPPING_LENGTH`] that holds only
//! zeros. The first thing that is written there is the agent header (see [`crate::agent::header`]).

use std::ops::Range;

use engraft_abi::{AGENT_HEADER_MAGIC, AGENT_MAPPING_NAME, AgentHeader, MAPPING_LENGTH};
use engraft_machine::PAGE_SIZE;
use engraft_process::{GapRequest, MemoryError, RemoteCallError, TargetAddress};
use zerocopy::IntoBytes;

use super::blob::{Blob, Protection, Segment};
use super::calls::Calls;
use super::header::memory_file_device;
use super::layout::AgentLayout;
use super::leftovers::{close_file, close_files};
use super::mapping::{Map, protect, unmap};
use crate::error::Error;

const READ: i32 = libc::PROT_READ;
const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;
const READ_EXECUTE: i32 = libc::PROT_READ | libc::PROT_EXEC;

/// How many places are tried if the program maps something at a place that has just been free.
const TRIES: usize = 16;

/// The name of a memory file, and of anonymous memory.
const NAME: &std::ffi::CStr = c"engraft-agent";

const _: () = assert!(NAME.count_bytes() == AGENT_MAPPING_NAME.len());

/// The memory that is to be made.
pub(super) struct NewMemory<'i> {
    pub(super) blob: &'i Blob,
    pub(super) layout: &'i AgentLayout,
    /// The memory is placed near this range.
    pub(super) around: &'i Range<TargetAddress>,
}

impl NewMemory<'_> {
    /// Maps, fills and protects everything but the control block. Returns the address. After an
    /// error, the caller calls
    /// [`leftovers::remove`](crate::agent::leftovers::remove).
    pub(super) fn make(&self, calls: &mut Calls<'_, '_>) -> Result<TargetAddress, Error> {
        match MemoryFile::create(calls) {
            Ok(file) => {
                let base = self.map_file(calls, &file)?;
                close_file(calls, file.descriptor)?;
                Ok(base)
            }
            Err(error) if calls.process().is_alive() => {
                tracing::debug!(%error, "no memory file for the agent; using anonymous memory");
                close_files(calls)?;
                self.map_anonymous(calls)
            }
            Err(error) => Err(error),
        }
    }

    /// Maps a memory file, and fills it while the mapping is shared; then the mapping becomes
    /// private.
    fn map_file(
        &self,
        calls: &mut Calls<'_, '_>,
        file: &MemoryFile,
    ) -> Result<TargetAddress, Error> {
        let base = self.reserve(calls, |base| Map {
            address: base,
            length: MAPPING_LENGTH,
            protection: READ_WRITE,
            flags: libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE,
            file: Some((file.descriptor, 0)),
        })?;
        let blob = base + self.layout.blob;
        let content = self.content(base);
        // Only the pieces are written: a page of the file that nobody writes takes no memory.
        for (offset, piece) in self.blob.pieces(&content) {
            calls.process().memory().write(blob + offset, piece)?;
        }
        let private = |address, offset, length, protection| Map {
            address,
            length,
            protection,
            flags: libc::MAP_PRIVATE | libc::MAP_FIXED,
            file: Some((file.descriptor, offset)),
        };
        private(base, 0, MAPPING_LENGTH, READ_WRITE).make(calls)?;
        for (segment, protection) in self.protected() {
            let Segment { offset, length, .. } = segment;
            let in_file = self.layout.blob + offset;
            private(blob + offset, in_file, length, protection).make(calls)?;
        }
        Self::expect_one_file(calls, base)?;
        Ok(base)
    }

    /// Checks that all the memory maps one memory file. Only the memory map can tell: at any of the
    /// calls, the descriptor may have been another file's.
    fn expect_one_file(calls: &Calls<'_, '_>, base: TargetAddress) -> Result<(), Error> {
        let process = calls.process();
        let maps = process.maps()?;
        let first = maps.find(base).map(|mapping| mapping.file);
        let mut end = base;
        for mapping in maps.from(base) {
            if mapping.range.start != end || Some(mapping.file) != first {
                break;
            }
            end = mapping.range.end;
        }
        let device = first.map(|(major, minor, _)| (major, minor));
        let is_memory_file =
            device.is_some() && memory_file_device().is_none_or(|known| Some(known) == device);
        match is_memory_file && end >= base + MAPPING_LENGTH {
            true => Ok(()),
            false => Err(Error::MemoryReplaced { pid: process.pid() }),
        }
    }

    /// Maps anonymous memory, and fills it from outside. No page that was writable becomes
    /// executable.
    fn map_anonymous(&self, calls: &mut Calls<'_, '_>) -> Result<TargetAddress, Error> {
        let base = self.reserve(calls, |base| Map {
            address: base,
            length: MAPPING_LENGTH,
            protection: READ_EXECUTE,
            flags: libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
            file: None,
        })?;
        write_protected(calls, base, header(base, base).as_bytes())?;
        name_anonymous(calls, base)?;
        let blob = base + self.layout.blob;
        let content = self.content(base);
        for (offset, piece) in self.blob.pieces(&content) {
            write_protected(calls, blob + offset, piece)?;
        }
        for (Segment { offset, length, .. }, protection) in self.protected() {
            if protection != READ_EXECUTE {
                protect(calls, blob + offset, length, protection)?;
            }
        }
        // The header at the start gets lost now: writable memory is not searched for one. The
        // header among the constants can be found by this time.
        let end = base + MAPPING_LENGTH;
        protect(calls, base, self.layout.blob, READ_WRITE)?;
        let variables = self.blob.segments.last().map_or(0, |last| last.offset);
        protect(
            calls,
            blob + variables,
            end - (blob + variables),
            READ_WRITE,
        )?;
        Ok(base)
    }

    /// The blob's memory, for a mapping that begins at `base`.
    fn content(&self, base: TargetAddress) -> Vec<u8> {
        let blob = base + self.layout.blob;
        let mut content = self.blob.at(blob.get());
        let header = header(blob, base);
        content
            .iter_mut()
            .zip(header.as_bytes())
            .for_each(|(to, from)| *to = *from);
        content
    }

    /// The segments that are not writable, and their protection.
    fn protected(&self) -> impl Iterator<Item = (Segment, i32)> {
        let segments = self.blob.segments.iter();
        segments.filter_map(|segment| match segment.protection {
            Protection::Read => Some((*segment, READ)),
            Protection::ReadExecute => Some((*segment, READ_EXECUTE)),
            Protection::ReadWrite => None,
        })
    }

    /// Maps a free range near the loader, so that a short jump in its break function reaches the
    /// agent.
    fn reserve(
        &self,
        calls: &mut Calls<'_, '_>,
        map: impl Fn(TargetAddress) -> Map,
    ) -> Result<TargetAddress, Error> {
        const EEXIST: i32 = libc::EEXIST;
        let process = calls.process().clone();
        let no_room = Error::NoRoom { pid: process.pid() };
        let request = GapRequest {
            around: self.around,
            size: MAPPING_LENGTH,
            alignment: PAGE_SIZE,
        };
        // The other threads run on, and may map something in the gap.
        for _ in 0..TRIES {
            let Some(gap) = request.find_at_random(&process.maps()?, random()) else {
                return Err(no_room);
            };
            match map(gap).make(calls) {
                Ok(address) if address == gap => return Ok(gap),
                // A kernel before 4.17 takes the flag for a hint.
                Ok(address) => unmap(calls, address, MAPPING_LENGTH)?,
                Err(Error::RemoteCall(RemoteCallError::SystemCall { errno: EEXIST, .. })) => {}
                Err(error) => return Err(error),
            }
        }
        Err(no_room)
    }
}

/// The agent header, for memory at `address` of an agent whose control block is at `control`.
fn header(address: TargetAddress, control: TargetAddress) -> AgentHeader {
    AgentHeader {
        magic: AGENT_HEADER_MAGIC,
        address: address.get(),
        control: control.get(),
        length: MAPPING_LENGTH,
    }
}

/// A number that nobody can guess; 0 if the kernel gives none.
pub(crate) fn random() -> u64 {
    let mut bytes = [0; 8];
    let read = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    if read.is_err() {
        tracing::warn!("the kernel gives no random numbers; the agent's place can be guessed");
    }
    u64::from_ne_bytes(bytes)
}

/// A memory file of [`MAPPING_LENGTH`], open in the target.
struct MemoryFile {
    descriptor: u64,
}

impl MemoryFile {
    fn create(calls: &mut Calls<'_, '_>) -> Result<Self, Error> {
        let process = calls.process();
        let limit = process.living_task().file_size_limit();
        let limit = limit.map_err(Error::reading(process))?;
        // The kernel would end the program for the attempt (SIGXFSZ).
        if limit.is_none_or(|limit| limit < MAPPING_LENGTH) {
            return Err(Error::RemoteCall(RemoteCallError::SystemCall {
                number: libc::SYS_ftruncate,
                errno: libc::EFBIG,
            }));
        }
        let flags = u64::from(libc::MFD_CLOEXEC);
        let descriptor = calls.in_thread(|thread| {
            let arguments = [0, flags, 0, 0, 0, 0];
            Ok(thread.system_call_with_text(libc::SYS_memfd_create, NAME, arguments)?)
        })?;
        let arguments = [descriptor, MAPPING_LENGTH, 0, 0, 0, 0];
        calls.system_call(libc::SYS_ftruncate, arguments)?;
        Ok(Self { descriptor })
    }
}

/// Writes to memory that the program may only read; through a stopped thread if the kernel allows
/// it only there.
fn write_protected(
    calls: &mut Calls<'_, '_>,
    address: TargetAddress,
    bytes: &[u8],
) -> Result<(), Error> {
    match calls.process().memory().write_protected(address, bytes) {
        Err(MemoryError::PermissionDenied { .. }) => {
            calls.in_thread(|thread| Ok(thread.protected_writer().write(address, bytes)?))
        }
        written => Ok(written?),
    }
}

/// Gives anonymous memory a name in /proc/PID/maps if the kernel has such names.
fn name_anonymous(calls: &mut Calls<'_, '_>, base: TargetAddress) -> Result<(), Error> {
    const PR_SET_VMA: u64 = 0x5356_4d41;
    const PR_SET_VMA_ANON_NAME: u64 = 0;
    let name = base + size_of::<AgentHeader>() as u64;
    write_protected(calls, name, NAME.to_bytes_with_nul())?;
    let arguments = [
        PR_SET_VMA,
        PR_SET_VMA_ANON_NAME,
        base.get(),
        MAPPING_LENGTH,
        name.get(),
        0,
    ];
    match calls.system_call(libc::SYS_prctl, arguments) {
        Err(Error::RemoteCall(RemoteCallError::SystemCall { .. })) => Ok(()),
        named => named.map(drop),
    }
}
