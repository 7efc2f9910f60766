//! An image: the new code and data of a patch for one module, placed within reach of it, relocated
//! and protected.
//!
//! No page of an image is ever writable and executable, and no page that was writable becomes
//! executable: the content is written to a memory file, and the image maps that file. So images can
//! also be made where the process denies itself such changes (PR_SET_MDWE). Where a seccomp filter
//! forbids memory files, plain memory changes from writable to executable.

#![expect(unsafe_code, reason = "maps and fills memory")]

use core::ffi::CStr;
use core::ops::Range;

use engraft_abi::{
    ImageSegments, ModuleRefusal, Outcome, PayloadFunction, PayloadObject, PayloadRelocation,
    flags, relocation_kind as kind, relocation_target as target,
};
use engraft_machine::{PAGE_SIZE, REACH, page_start};

use crate::patch::dispatch;
use crate::system::failure::{Failure, Text};
use crate::system::memory::bytes_mut;
use crate::system::random;
use crate::system::{
    self, Errno, File, MAP_ANONYMOUS, MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_NORESERVE, MAP_PRIVATE,
    MAP_SHARED, PROT_EXEC, PROT_NONE, PROT_READ, PROT_WRITE,
};

/// An image in place.
#[derive(Debug)]
pub(crate) struct Image {
    /// Its first byte; the text begins here.
    pub base: u64,
    layout: ImageSegments,
    escapes: bool,
}

/// Where the symbols of relocations are in the process.
pub(crate) trait Symbols {
    /// The address of a link-time address of the object.
    fn object(&self, link_address: u64) -> u64;
    /// The address of the import with this index. An error names the import.
    fn import(&self, index: u64) -> Result<u64, Failure>;
}

/// What an image is placed for.
pub(crate) struct Placement<'a> {
    /// The addresses of the module. The image has to be within reach of all of them.
    pub module: &'a Range<u64>,
    /// The symbols of its relocations.
    pub symbols: &'a dyn Symbols,
    /// The address of the agent's entry for dispatch.
    pub dispatch: u64,
    /// Its name in `/proc/PID/maps`.
    pub name: &'static CStr,
}

impl Image {
    /// Makes the image of `object`. After an error nothing of it is left.
    ///
    /// `payload` is the buffer that the object's offsets refer to.
    pub(crate) fn place(
        payload: &[u8],
        object: &PayloadObject,
        place: &Placement<'_>,
    ) -> Result<Self, Failure> {
        let layout = ImageSegments::of(object).ok_or_else(Failure::bad_payload)?;
        let base = reserve_near(place.module, layout.length)?;
        let image = Self {
            base,
            layout,
            escapes: object.flags & flags::ADDRESS_ESCAPES != 0,
        };
        image
            .fill(payload, object, place)
            .map_err(|failure| match image.unmap() {
                Ok(()) => failure,
                Err(undo) => undo,
            })?;
        Ok(image)
    }

    /// Where the constants of an object's image are, from its start.
    pub(crate) fn constants_of(object: &PayloadObject) -> Option<Range<u64>> {
        let layout = ImageSegments::of(object)?;
        Some(layout.read_only..layout.data)
    }

    /// Where the variables of an object's image are, from its start.
    pub(crate) fn data_of(object: &PayloadObject) -> Option<Range<u64>> {
        let layout = ImageSegments::of(object)?;
        Some(layout.data..layout.length)
    }

    /// The addresses of the image's code.
    pub(crate) fn code(&self) -> Range<u64> {
        self.base..self.base + self.layout.text_length
    }

    /// Size of the whole image in bytes.
    pub(crate) fn length(&self) -> u64 {
        self.layout.length
    }

    /// Whether the program may hold a pointer to a function in it.
    pub(crate) fn escapes(&self) -> bool {
        self.escapes
    }

    /// Unmaps the image. No thread runs in it, and the program holds no pointer into it.
    pub(crate) fn unmap(&self) -> Result<(), Failure> {
        // SAFETY: the range is this image's; nobody runs in it (the caller knows that).
        unsafe { system::unmap(self.base, self.layout.length as usize) }
            .map_err(|errno| Failure::system_call(b"unmapping a patch's code", errno))
    }

    fn fill(
        &self,
        payload: &[u8],
        object: &PayloadObject,
        place: &Placement<'_>,
    ) -> Result<(), Failure> {
        let ImageSegments {
            read_only,
            data,
            length,
            ..
        } = self.layout;
        let staging = Staging::new(place.name, length)?;
        // SAFETY: the staging mapping is `length` bytes long and ours alone until it is dropped.
        let content = unsafe { bytes_mut(staging.address, length as usize) };
        let segments = [
            (0, object.text),
            (read_only, object.read_only),
            (data, object.data),
        ];
        for (offset, segment) in segments {
            let bytes = segment.of(payload).ok_or_else(Failure::bad_payload)?;
            content
                .get_mut(offset as usize..)
                .and_then(|rest| rest.get_mut(..bytes.len()))
                .ok_or_else(Failure::bad_payload)?
                .copy_from_slice(bytes);
        }
        let relocations = object
            .relocations
            .of(payload)
            .ok_or_else(Failure::bad_payload)?;
        for relocation in relocations {
            self.relocate(content, relocation, place.symbols)?;
        }
        let functions = object.functions.of::<PayloadFunction>(payload);
        for function in functions.ok_or_else(Failure::bad_payload)? {
            let stub = dispatch::stub(self.base + function.words_offset, place.dispatch);
            content
                .get_mut(function.stub_offset as usize..)
                .and_then(|rest| rest.get_mut(..stub.len()))
                .ok_or_else(Failure::bad_payload)?
                .copy_from_slice(&stub);
        }
        self.map_segments(&staging, content)
    }

    fn relocate(
        &self,
        content: &mut [u8],
        relocation: &PayloadRelocation,
        symbols: &dyn Symbols,
    ) -> Result<(), Failure> {
        let symbol = match relocation.target {
            target::IMAGE => self.base.wrapping_add(relocation.value),
            target::OBJECT => symbols.object(relocation.value),
            target::IMPORT => symbols.import(relocation.value)?,
            _ => return Err(Failure::bad_payload()),
        };
        let value = symbol.wrapping_add_signed(relocation.addend);
        let relative = value.wrapping_sub(self.base.wrapping_add(relocation.place));
        let (value, width) = match relocation.kind {
            kind::ABSOLUTE_64 => (value, 8),
            kind::PC_RELATIVE_64 => (relative, 8),
            kind::ABSOLUTE_32 if u32::try_from(value).is_ok() => (value, 4),
            kind::ABSOLUTE_32_SIGNED if i32::try_from(value as i64).is_ok() => (value, 4),
            kind::PC_RELATIVE_32 if i32::try_from(relative as i64).is_ok() => (relative, 4),
            kind::ABSOLUTE_32 | kind::ABSOLUTE_32_SIGNED | kind::PC_RELATIVE_32 => {
                return Err(overflow(relocation, symbol));
            }
            _ => return Err(Failure::bad_payload()),
        };
        let place = usize::try_from(relocation.place).map_err(|_| Failure::bad_payload())?;
        let bytes = content
            .get_mut(place..)
            .and_then(|rest| rest.get_mut(..width))
            .ok_or_else(Failure::bad_payload)?;
        bytes.copy_from_slice(value.to_le_bytes().get(..width).unwrap_or_default());
        Ok(())
    }

    /// Gives the segments their content and final protection, over the reserved range.
    fn map_segments(&self, staging: &Staging, content: &mut [u8]) -> Result<(), Failure> {
        let ImageSegments {
            read_only,
            data,
            length,
            ..
        } = self.layout;
        let segments = [
            (0..read_only, PROT_READ | PROT_EXEC),
            (read_only..data, PROT_READ),
            (data..length, PROT_READ | PROT_WRITE),
        ];
        for (range, protection) in segments.into_iter().filter(|(range, _)| !range.is_empty()) {
            let address = self.base + range.start;
            let size = (range.end - range.start) as usize;
            match &staging.file {
                Some(file) => {
                    let flags = MAP_PRIVATE | MAP_FIXED;
                    let offset = range.start as usize;
                    // SAFETY: the fixed range is our own reservation.
                    unsafe { system::map(address, size, protection, flags, Some(file), offset) }
                        .map_err(|errno| Failure::system_call(b"mapping a patch", errno))?;
                }
                None => {
                    // SAFETY: the reservation is ours and unused.
                    unsafe { system::protect(address, size, PROT_READ | PROT_WRITE) }
                        .map_err(|errno| Failure::system_call(b"filling a patch", errno))?;
                    let bytes = content
                        .get(range.start as usize..range.end as usize)
                        .ok_or_else(Failure::bad_payload)?;
                    // SAFETY: just made writable; ours.
                    unsafe { bytes_mut(address, size) }.copy_from_slice(bytes);
                    // SAFETY: ours, and nobody accesses it yet.
                    unsafe { system::protect(address, size, protection) }
                        .map_err(|errno| Failure::system_call(b"protecting a patch", errno))?;
                }
            }
        }
        Ok(())
    }
}

/// Where an image's content is put together: a memory file, or private memory.
struct Staging {
    address: u64,
    length: u64,
    file: Option<File>,
}

impl Staging {
    fn new(name: &'static CStr, length: u64) -> Result<Self, Failure> {
        let file = File::in_memory(name, length as usize).ok();
        let flags = if file.is_some() {
            MAP_SHARED
        } else {
            MAP_PRIVATE | MAP_ANONYMOUS
        };
        let protection = PROT_READ | PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address =
            unsafe { system::map(0, length as usize, protection, flags, file.as_ref(), 0) }
                .map_err(|errno| Failure::system_call(b"mapping memory for a patch", errno))?;
        Ok(Self {
            address,
            length,
            file,
        })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and its slice is not used after `fill`. An error could only
        // mean that it is gone already.
        let _ = unsafe { system::unmap(self.address, self.length as usize) };
    }
}

/// Reserves `length` bytes, each of which is within 2 GiB of every byte of `module`.
///
/// If there is much room below the module, the place is random. Otherwise it is as near as
/// possible, first below the module, because the heap that follows a program's data grows upwards.
/// The kernel is asked for each place in turn, so this needs no /proc. A place that is taken costs
/// one failed call.
fn reserve_near(module: &Range<u64>, length: u64) -> Result<u64, Failure> {
    const LOWEST: u64 = 0x1_0000;
    let step = length.next_multiple_of(1 << 20);
    let module_end = module.end.next_multiple_of(PAGE_SIZE);
    let module_start = page_start(module.start);
    let bottom = module_end.saturating_sub(REACH).max(LOWEST);
    let top = module_start.saturating_add(REACH);
    let below = (1..)
        .map_while(|count: u64| {
            module_start.checked_sub(length.checked_add(step.checked_mul(count - 1)?)?)
        })
        .take_while(|start| *start >= bottom);
    // Not right after the module: a program's heap may begin there.
    let above = (1..)
        .map_while(|count: u64| module_end.checked_add(step.checked_mul(count)?))
        .take_while(|start| start.saturating_add(length) <= top);
    let guesses = random_places(bottom..module_start.saturating_sub(length));
    for start in guesses.chain(below).chain(above) {
        match reserve(start, length) {
            Ok(true) => return Ok(start),
            Ok(false) => {}
            Err(errno) => return Err(Failure::system_call(b"reserving memory", errno)),
        }
    }
    Err(Failure::refusal(ModuleRefusal::NoRoom {
        module: module.start,
    }))
}

/// A few places that cannot be guessed, if there is enough room to choose from.
fn random_places(starts: Range<u64>) -> impl Iterator<Item = u64> {
    const TRIES: usize = 8;
    /// A position-dependent program has less below it, and its heap above.
    const ENOUGH: u64 = 64 << 20;
    let pages = starts.end.saturating_sub(starts.start) / PAGE_SIZE;
    let tries = if pages >= ENOUGH / PAGE_SIZE {
        TRIES
    } else {
        0
    };
    (0..tries)
        .map(move |_| starts.start.next_multiple_of(PAGE_SIZE) + random::next() % pages * PAGE_SIZE)
}

/// Reserves a range. False if it is taken.
fn reserve(start: u64, length: u64) -> Result<bool, Errno> {
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
    // SAFETY: MAP_FIXED_NOREPLACE never takes a used range.
    match unsafe { system::map(start, length as usize, PROT_NONE, flags, None, 0) } {
        Ok(address) if address == start => Ok(true),
        Ok(address) => {
            // A kernel before 4.17 takes the flag for a hint.
            // SAFETY: the mapping was just made and nobody uses it.
            unsafe { system::unmap(address, length as usize) }?;
            Ok(false)
        }
        // It is taken, or too low for the process to map, or beyond the end of its address space.
        Err(Errno::EXIST | Errno::PERMISSION | Errno::NO_MEMORY) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn overflow(relocation: &PayloadRelocation, symbol: u64) -> Failure {
    let text = Text::EMPTY
        .push(b"a 32-bit relocation at offset ")
        .push_hexadecimal(relocation.place)
        .push(b" of the new code does not reach ")
        .push_hexadecimal(symbol);
    Failure {
        outcome: Outcome::NoMemory,
        text,
    }
}
