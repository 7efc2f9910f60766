//! Payloads: patches as flat buffers, which controllers have written into the target.

#![expect(unsafe_code, reason = "payloads are mappings of their own")]

use alloc::vec::Vec;

use engraft_abi::{
    PayloadFunction, PayloadHeader, PayloadImport, PayloadObject, STUB_SIZE, VERSION, WORDS_SIZE,
};
use engraft_core::{LinkAddress, ObjectId, PatchId};
use zerocopy::FromBytes;

use crate::patch::image::Image;
use crate::system::failure::Failure;
use crate::system::memory::bytes;
use crate::system::{self, MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE};

/// One patch as a controller wrote it, in a mapping of its own.
#[derive(Clone, Copy)]
pub(crate) struct Payload {
    patch: PatchId,
    address: u64,
    length: u64,
    /// The patch was enabled: when it is disabled, the payload is kept until the patch is removed.
    kept: bool,
}

/// An object of a payload together with the buffer that its offsets refer to.
#[derive(Clone, Copy)]
pub(crate) struct PayloadView<'a> {
    /// The whole payload.
    pub buffer: &'a [u8],
    /// The object.
    pub object: &'a PayloadObject,
}

impl<'a> PayloadView<'a> {
    /// Whether this object is the file with this build-id.
    pub(crate) fn is(&self, build_id: &[u8]) -> bool {
        let own = &self.object.build_id;
        own.bytes.get(..own.length as usize) == Some(build_id)
    }

    /// The functions. `Payload::check` has made sure that the table is sound.
    pub(crate) fn functions(&self) -> &'a [PayloadFunction] {
        self.object.functions.of(self.buffer).unwrap_or_default()
    }

    /// The old function at `address`.
    pub(crate) fn function_at(&self, address: LinkAddress) -> Option<&'a PayloadFunction> {
        self.functions()
            .iter()
            .find(|function| self.entry(function) == Some(address))
    }

    /// Where an old function begins.
    pub(crate) fn entry(&self, function: &PayloadFunction) -> Option<LinkAddress> {
        let parts = function.parts.of::<engraft_abi::PayloadPart>(self.buffer)?;
        parts.first().map(|part| LinkAddress(part.address))
    }

    /// The old code of a function's first part.
    pub(crate) fn old_code(&self, function: &PayloadFunction) -> Option<&'a [u8]> {
        let parts = function.parts.of::<engraft_abi::PayloadPart>(self.buffer)?;
        parts.first()?.code.of(self.buffer)
    }

    /// Name of a function.
    pub(crate) fn name(&self, function: &PayloadFunction) -> &'a [u8] {
        function.name.of(self.buffer).unwrap_or_default()
    }

    /// An import and the texts that it refers to: name, version.
    pub(crate) fn import(&self, index: u64) -> Option<(&'a PayloadImport, &'a [u8], &'a [u8])> {
        let imports = self.object.imports.of::<PayloadImport>(self.buffer)?;
        let import = imports.get(usize::try_from(index).ok()?)?;
        Some((
            import,
            import.name.of(self.buffer)?,
            import.version.of(self.buffer)?,
        ))
    }
}

/// All payloads, and the memory that was lent to controllers for further ones.
pub(crate) struct Payloads {
    list: Vec<Payload>,
    /// Address and length of what controllers have not handed over yet.
    lent: Vec<(u64, u64)>,
}

/// # Safety
/// The range came from [`Payloads::lend`] and nothing uses it any more.
unsafe fn free(address: u64, length: u64) -> Result<(), Failure> {
    // SAFETY: the caller's promise.
    unsafe { system::unmap(address, length as usize) }
        .map_err(|errno| Failure::system_call(b"unmapping a patch", errno))
}

impl Payloads {
    /// None.
    pub(crate) const fn new() -> Self {
        Self {
            list: Vec::new(),
            lent: Vec::new(),
        }
    }

    /// Maps memory for a controller to write to; its address.
    pub(crate) fn lend(&mut self, length: u64) -> Result<u64, Failure> {
        self.lent
            .try_reserve(1)
            .map_err(|_| Failure::out_of_memory())?;
        let (protection, flags) = (PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe { system::map(0, length as usize, protection, flags, None, 0) }
            .map_err(|errno| Failure::system_call(b"mapping memory for a patch", errno))?;
        self.lent.push((address, length));
        Ok(address)
    }

    /// Frees memory that was lent. Memory that was handed over meanwhile is not freed: it is no
    /// longer the controller's.
    pub(crate) fn free_lent(&mut self, address: u64, length: u64) -> Result<(), Failure> {
        match self.end_loan(address, length) {
            // SAFETY: it was lent until now.
            true => unsafe { free(address, length) },
            false => Ok(()),
        }
    }

    /// Frees all memory that was lent. The controllers that had it are gone.
    pub(crate) fn free_all_lent(&mut self) -> Result<(), Failure> {
        while let Some((address, length)) = self.lent.pop() {
            // SAFETY: it was lent until now, and the controller is gone.
            unsafe { free(address, length) }?;
        }
        Ok(())
    }

    /// Ends a loan. False if there is none.
    fn end_loan(&mut self, address: u64, length: u64) -> bool {
        let before = self.lent.len();
        self.lent.retain(|loan| *loan != (address, length));
        self.lent.len() < before
    }

    /// Adds the payload at `address`, which the controller has written, to the patch `patch`.
    pub(crate) fn add(&mut self, patch: PatchId, address: u64, length: u64) -> Result<(), Failure> {
        if !self.end_loan(address, length) {
            return Err(Failure::bad_payload());
        }
        if self.list.try_reserve(1).is_err() {
            // SAFETY: the memory was lent until now, and nothing refers to it.
            unsafe { free(address, length) }?;
            return Err(Failure::out_of_memory());
        }
        let payload = Payload {
            patch,
            address,
            length,
            kept: false,
        };
        if let Err(failure) = payload.check() {
            // SAFETY: the payload came from `lend`, and nothing refers to it.
            unsafe { free(address, length) }?;
            return Err(failure);
        }
        // The controller has written the payload. From now on a stray write of the program shall
        // not change it. If protecting it fails, the patch works all the same.
        // SAFETY: it is read only from now on.
        let _ = unsafe { system::protect(address, length as usize, PROT_READ) };
        self.list.push(payload);
        Ok(())
    }

    /// Forgets a payload and frees its memory.
    pub(crate) fn remove(&mut self, patch: PatchId) -> Result<(), Failure> {
        let Some(index) = self.list.iter().position(|payload| payload.patch == patch) else {
            return Ok(());
        };
        let payload = self.list.swap_remove(index);
        // SAFETY: the payload came from `lend` and was just forgotten; views borrow `self`.
        unsafe { free(payload.address, payload.length) }
    }

    /// Marks a payload as kept: its patch is being enabled.
    pub(crate) fn keep(&mut self, patch: PatchId) {
        let mut list = self.list.iter_mut();
        if let Some(payload) = list.find(|payload| payload.patch == patch) {
            payload.kept = true;
        }
    }

    /// All payloads.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Payload> {
        self.list.iter()
    }

    /// The patch of another payload with the same content.
    pub(crate) fn same_content(&self, patch: PatchId) -> Option<PatchId> {
        let wanted = self.get(patch)?.buffer();
        let mut others = self.list.iter().filter(|payload| payload.patch != patch);
        let same = others.find(|payload| payload.buffer() == wanted)?;
        Some(same.patch)
    }

    /// The objects of all patches.
    pub(crate) fn objects(&self) -> impl Iterator<Item = PayloadView<'_>> {
        self.list.iter().flat_map(Payload::objects)
    }

    /// The payload of a patch.
    pub(crate) fn get(&self, patch: PatchId) -> Option<&Payload> {
        self.list.iter().find(|payload| payload.patch == patch)
    }

    /// An object of a patch.
    pub(crate) fn view(&self, id: ObjectId) -> Option<PayloadView<'_>> {
        self.get(id.patch)?.objects().nth(id.object as usize)
    }
}

impl Payload {
    /// The patch that it describes.
    pub(crate) fn patch(&self) -> PatchId {
        self.patch
    }

    /// Whether it stays until its patch is removed.
    pub(crate) fn is_kept(&self) -> bool {
        self.kept
    }

    fn buffer(&self) -> &[u8] {
        // SAFETY: the mapping exists as long as the payload is in the list, and nobody writes to it
        // after it was handed over.
        unsafe { bytes(self.address, self.length as usize) }
    }

    fn header(&self) -> Option<&PayloadHeader> {
        let (header, _) = PayloadHeader::ref_from_prefix(self.buffer()).ok()?;
        (header.version == VERSION && header.length <= self.length).then_some(header)
    }

    /// The patch's name.
    pub(crate) fn name(&self) -> &[u8] {
        self.header()
            .and_then(|header| header.name.of(self.buffer()))
            .unwrap_or_default()
    }

    /// Its objects, in order.
    pub(crate) fn objects(&self) -> impl Iterator<Item = PayloadView<'_>> {
        let buffer = self.buffer();
        self.header()
            .and_then(|header| header.objects.of::<PayloadObject>(buffer))
            .unwrap_or_default()
            .iter()
            .map(move |object| PayloadView { buffer, object })
    }

    /// Checks that every reference which is followed later stays inside the payload.
    fn check(&self) -> Result<(), Failure> {
        let header = self.header().ok_or_else(Failure::bad_payload)?;
        let buffer = self.buffer();
        let objects = header
            .objects
            .of::<PayloadObject>(buffer)
            .ok_or_else(Failure::bad_payload)?;
        let sound = header.name.of(buffer).is_some_and(|name| !name.is_empty())
            && objects
                .iter()
                .all(|object| object_is_sound(PayloadView { buffer, object }));
        if sound {
            Ok(())
        } else {
            Err(Failure::bad_payload())
        }
    }
}

fn object_is_sound(view: PayloadView<'_>) -> bool {
    let PayloadView { buffer, object } = view;
    let Some(functions) = object.functions.of::<PayloadFunction>(buffer) else {
        return false;
    };
    let in_text = |offset: u64, size: u64| {
        let end = offset.checked_add(size);
        end.is_some_and(|end| end <= object.text.length.into())
    };
    let data = Image::data_of(object).unwrap_or_default();
    let in_data = |offset: u64| {
        data.start <= offset
            && offset
                .checked_add(WORDS_SIZE)
                .is_some_and(|end| end <= data.end)
    };
    let constants = Image::constants_of(object).unwrap_or_default();
    let unwind_is_sound = object.unwind_size == 0
        || constants.start <= object.unwind_offset
            && object
                .unwind_offset
                .checked_add(object.unwind_size)
                .is_some_and(|end| end <= constants.end);
    let function_is_sound = |function: &PayloadFunction| {
        let parts = function
            .parts
            .of::<engraft_abi::PayloadPart>(buffer)
            .unwrap_or_default();
        let end = function.new_offset.checked_add(function.new_size);
        !parts.is_empty()
            && parts.iter().all(|part| part.code.of(buffer).is_some())
            && function.name.of(buffer).is_some()
            && end.is_some_and(|end| end <= u64::from(object.text.length))
            && in_text(function.trampoline_offset, function.trampoline_size)
            && in_text(function.stub_offset, STUB_SIZE)
            && function.words_offset.is_multiple_of(8)
            && in_data(function.words_offset)
    };
    unwind_is_sound
        && functions.iter().all(function_is_sound)
        && object.file_name.of(buffer).is_some()
        && object.build_id.length <= object.build_id.bytes.len() as u64
}
