//! Calls of functions that look up the module of their caller by their return address.
//!
//! `dlsym(RTLD_NEXT, ...)` searches the modules after that of its caller, `dlopen` searches along
//! that module's RUNPATH, and both look into its namespace. New code is in no module. It calls such
//! functions through a thunk, which makes a place in the old binary call them ([`CallPoint`]).

use engraft_machine::jump;
use engraft_patch::{LinkAddress, RelocationKind};

use super::builder::{Builder, SlotKey};
use super::call_point::{CallPoint, CallRegister};
use super::draft::{Area, Fixup, FixupTarget, Spot, object_target};
use super::reference::Reference;
use crate::binary::Binary;
use crate::refusal::Refusal;
use crate::unit::{Flow, Referent};

/// What looks at its return address in glibc (all) and musl (`dlsym`).
const NAMES: [&str; 5] = ["dlsym", "dlvsym", "dlopen", "dlmopen", "dl_iterate_phdr"];
/// As functions are aligned.
const ALIGNMENT: u64 = 16;

/// The thunks of an image, and what they need.
#[derive(Debug, Default)]
pub(super) struct Thunks {
    /// Looked for once, at the first call.
    point: Option<Option<CallPoint>>,
    /// Where the size of the image's code is to be written.
    sizes: Vec<Spot>,
}

/// Code with the places that are relocated in it.
#[derive(Default)]
struct Code {
    bytes: Vec<u8>,
    /// Offsets of 32-bit fields, each the end of its instruction, and what they refer to.
    fields: Vec<(usize, FixupTarget)>,
}

impl Code {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn push_field(&mut self, opcode: &[u8], target: FixupTarget) {
        self.push(opcode);
        self.fields.push((self.bytes.len(), target));
        self.push(&[0; 4]);
    }
}

impl Builder<'_> {
    /// Whether a reference means a function that looks at its caller.
    fn looks_at_caller(&self, reference: &Reference<'_>) -> Option<&'static str> {
        let name = self.symbol(reference);
        let name = NAMES.iter().find(|known| **known == name)?;
        let is_foreign = match &reference.reloc.referent {
            Referent::Undefined { .. } => true,
            Referent::Item(_) => self.is_global(reference) && self.has_slot(name),
        };
        is_foreign.then_some(name)
    }

    /// The thunk for a call of a function that looks at its caller; none for all other references.
    ///
    /// # Errors
    /// If the function's address is taken: its callers are not known here.
    pub(super) fn caller_thunk(
        &mut self,
        reference: &Reference<'_>,
    ) -> Result<Option<Spot>, Refusal> {
        let Some(name) = self.looks_at_caller(reference) else {
            return Ok(None);
        };
        if reference.reloc.flow == Flow::Value {
            return Err(Refusal::CallerByAddress {
                function: self.user(reference),
                symbol: name.to_owned(),
            });
        }
        let weak = matches!(
            reference.reloc.referent,
            Referent::Undefined { weak: true, .. }
        );
        let slot = self.slot_to_call(reference, name, weak)?;
        self.thunk(name, slot, &self.user(reference)).map(Some)
    }

    /// Where a thunk finds the address of what it calls.
    fn slot_to_call(
        &mut self,
        reference: &Reference<'_>,
        name: &str,
        weak: bool,
    ) -> Result<FixupTarget, Refusal> {
        if self.has_slot(name) && self.added(reference).is_none() {
            return Ok(self.own_slot(name));
        }
        let content = match self.known(reference, name) {
            Some(target) => target,
            None => self.import(reference, name, weak)?,
        };
        let slot = self.slot(SlotKey::Name(name.to_owned()), content);
        Ok(FixupTarget::Spot(slot))
    }

    fn own_slot(&self, name: &str) -> FixupTarget {
        let slots = self.binary.slots(name);
        let address = slots.jump.or(slots.data).unwrap_or(LinkAddress(0));
        object_target(&format!("{name}.got"), address)
    }

    /// The thunk for a call that was moved into the trampoline of an old function, whose target or
    /// GOT slot is at this address. Of a slot, the place that holds the thunk's address.
    pub(super) fn thunk_of_moved(
        &mut self,
        function: &str,
        address: u64,
    ) -> Result<Option<Spot>, Refusal> {
        let through = called_through(self.binary, address);
        let Some((name, slot)) = NAMES.iter().find_map(|name| {
            let slots = self.binary.slots(name);
            let all = [slots.jump, slots.data].into_iter().flatten();
            let mut slots = all.map(|slot| slot.0);
            let slot = slots.find(|slot| *slot == address || Some(*slot) == through)?;
            Some((*name, slot))
        }) else {
            return Ok(None);
        };
        let thunk = self.thunk(name, self.own_slot(name), function)?;
        let holds = || SlotKey::Thunk(name.to_owned());
        Ok(Some(match slot == address {
            true => self.slot(holds(), FixupTarget::Spot(thunk)),
            false => thunk,
        }))
    }

    /// A thunk that calls what a slot holds. `user` is the function that needs it.
    fn thunk(&mut self, name: &str, slot: FixupTarget, user: &str) -> Result<Spot, Refusal> {
        let key = SlotKey::Thunk(name.to_owned());
        if let Some(&thunk) = self.stubs.get(&key) {
            return Ok(thunk);
        }
        let (binary, replaced) = (self.binary, &self.replaced);
        let point = self
            .thunks
            .point
            .get_or_insert_with(|| CallPoint::find(binary, replaced))
            .clone();
        let point = point.ok_or_else(|| Refusal::NoCallPoint {
            function: user.to_owned(),
            symbol: name.to_owned(),
            binary: self.binary.file_name(),
        })?;
        let (code, size_at) = thunk_code(&point, &slot);
        let length = code.bytes.len() as u64;
        let thunk = self.draft.add(Area::Text, &code.bytes, length, ALIGNMENT);
        let spot = |offset: usize| Spot {
            area: Area::Text,
            offset: thunk.offset + offset as u64,
        };
        for (offset, target) in code.fields {
            self.draft.fixup(Fixup {
                place: spot(offset),
                kind: RelocationKind::PcRelative32,
                target,
                addend: -4,
            });
        }
        self.thunks.sizes.push(spot(size_at));
        self.stubs.insert(key, thunk);
        Ok(thunk)
    }

    /// Tells the thunks how much code there is, when all of it is laid out.
    pub(super) fn finish_thunks(&mut self) {
        let size = self.draft.text_size().to_le_bytes();
        for place in std::mem::take(&mut self.thunks.sizes) {
            self.draft.write(place, &size);
        }
    }
}

/// The code of a thunk, and the offset of the field for the size of the image's code.
///
/// A jump here (a tail call) may leave a return address outside the image. It lies in old code,
/// whose module the loader knows, and which would be the caller without a patch, too.
fn thunk_code(point: &CallPoint, slot: &FixupTarget) -> (Code, usize) {
    let image = FixupTarget::Spot(Spot {
        area: Area::Text,
        offset: 0,
    });
    let mut through_point = Code::default();
    for popped in point.popped.iter().rev() {
        match popped.number {
            number @ 8.. => through_point.push(&[0x41, 0x50 + (number - 8)]),
            number => through_point.push(&[0x50 + number]),
        }
    }
    if point.skipped > 0 {
        // sub $skipped, %rsp
        through_point.push(&[0x48, 0x81, 0xec]);
        through_point.push(&point.skipped.to_le_bytes());
    }
    // mov slot(%rip), register
    let load: &[u8] = match point.register {
        CallRegister::Rax => &[0x48, 0x8b, 0x05],
        CallRegister::R10 => &[0x4c, 0x8b, 0x15],
        CallRegister::R11 => &[0x4c, 0x8b, 0x1d],
    };
    through_point.push_field(load, slot.clone());
    // jmp
    let place = object_target("call_point", LinkAddress(point.address));
    through_point.push_field(&[jump::OPCODE], place);

    let mut code = Code::default();
    // mov (%rsp), %rax
    code.push(&[0x48, 0x8b, 0x04, 0x24]);
    // lea image(%rip), %r11
    code.push_field(&[0x4c, 0x8d, 0x1d], image);
    // sub %r11, %rax
    code.push(&[0x4c, 0x29, 0xd8]);
    // cmp $size, %rax
    code.push(&[0x48, 0x3d]);
    let size_at = code.bytes.len();
    code.push(&[0; 4]);
    // jae over what goes through the call point
    code.push(&[0x0f, 0x83]);
    code.push(&(through_point.bytes.len() as u32).to_le_bytes());
    let start = code.bytes.len();
    let fields = through_point.fields.into_iter();
    code.fields
        .extend(fields.map(|(offset, target)| (start + offset, target)));
    code.push(&through_point.bytes);
    // jmp *slot(%rip)
    code.push_field(&[0xff, 0x25], slot.clone());
    (code, size_at)
}

/// The slot that a PLT entry jumps through.
fn called_through(binary: &Binary, address: u64) -> Option<u64> {
    const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
    let code = binary.code(address, 16);
    let (mut at, mut code) = (address, code);
    if let Some(rest) = code.strip_prefix(&ENDBR64) {
        (at, code) = (at + 4, rest);
    }
    // The entries of older linkers have a prefix for bounds.
    if let Some(rest) = code.strip_prefix(&[0xf2]) {
        (at, code) = (at + 1, rest);
    }
    let field = code.strip_prefix(&[0xff, 0x25])?.first_chunk()?;
    let distance = i64::from(i32::from_le_bytes(*field));
    at.checked_add(6)?.checked_add_signed(distance)
}
