//! Thread-local variables are where the binary's own code finds them.
//!
//! New code may ask for a variable in a way for which the binary has no GOT entry, because the
//! linker rewrote all code that asked so ([`crate::correlate`]). Then it is rewritten in the same
//! way.

use engraft_patch::{LinkAddress, RelocationKind};
use object::elf;

use super::builder::{Builder, SlotKey};
use super::draft::{Area, Fixup, FixupTarget, Spot, object_target};
use super::reference::{Extent, Reference};
use crate::correlate::Class;
use crate::refusal::Refusal;
use crate::unit::{Referent, Reloc};

/// `mov %fs:0, %rax`
const READ_THREAD_POINTER: [u8; 9] = [0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0];
/// `lea x@tpoff(%rax), %rax`, without the offset.
const ADD_OFFSET: [u8; 3] = [0x48, 0x8d, 0x80];
/// `add x@gottpoff(%rip), %rax`, without the field.
const ADD_ENTRY: [u8; 3] = [0x48, 0x03, 0x05];
/// A prefix without effect, as linkers use it here.
const FILLER: u8 = 0x66;
const FIELD: u64 = 4;

impl Builder<'_> {
    pub(super) fn thread_local(&mut self, reference: &Reference<'_>) -> Result<Extent, Refusal> {
        let place = reference.place;
        let r_type = reference.reloc.r_type;
        if let Some(entry) = self.binding(reference, Class::TlsEntry(r_type))
            && r_type != elf::R_X86_64_DTPOFF32
        {
            self.tls_entry(reference, place, entry);
            return Ok(Extent::One);
        }
        let distance = self.distance(reference);
        match (r_type, distance) {
            (elf::R_X86_64_TPOFF32, Some(value)) => {
                self.write_offset(place, value);
                Ok(Extent::One)
            }
            (elf::R_X86_64_DTPOFF32, _) => {
                let value = match self.is_local_exec(reference) {
                    true => distance,
                    false => self.dtp_offset(reference),
                };
                let value = value.ok_or_else(|| self.no_place(reference))?;
                self.write_offset(place, value);
                Ok(Extent::One)
            }
            (elf::R_X86_64_GOTTPOFF, Some(value)) => {
                // The linker had no need for a slot; the code as compiled has.
                let slots = &mut self.slots;
                let draft = &mut self.draft;
                let slot = *slots
                    .entry(SlotKey::ThreadLocal(value))
                    .or_insert_with(|| draft.add(Area::ReadOnly, &value.to_le_bytes(), 8, 8));
                self.tls_field(reference, place, FixupTarget::Spot(slot));
                Ok(Extent::One)
            }
            (elf::R_X86_64_TLSGD, _) => self.general_dynamic(reference, distance),
            (elf::R_X86_64_TLSLD, _) if self.is_local_exec(reference) => {
                self.local_dynamic(reference)
            }
            _ => Err(self.no_place(reference)),
        }
    }

    /// `lea x@tlsgd(%rip), %rdi; call __tls_get_addr`, padded by prefixes to 16 bytes.
    fn general_dynamic(
        &mut self,
        reference: &Reference<'_>,
        distance: Option<u64>,
    ) -> Result<Extent, Refusal> {
        const LEA: [u8; 4] = [0x66, 0x48, 0x8d, 0x3d];
        const CALLS: [&[u8]; 2] = [&[0x66, 0x66, 0x48, 0xe8], &[0x66, 0x48, 0xff, 0x15]];
        let start = self.sequence(reference, &LEA, &CALLS)?;
        let field = Spot {
            offset: start.offset + (READ_THREAD_POINTER.len() + ADD_OFFSET.len()) as u64,
            ..start
        };
        let entry = self.binding(reference, Class::TlsEntry(elf::R_X86_64_GOTTPOFF));
        match (distance, entry) {
            (Some(value), _) => {
                let code = [&READ_THREAD_POINTER[..], &ADD_OFFSET].concat();
                self.draft.write(start, &code);
                self.write_offset(field, value);
            }
            (None, Some(entry)) => {
                let code = [&READ_THREAD_POINTER[..], &ADD_ENTRY].concat();
                self.draft.write(start, &code);
                self.tls_entry(reference, field, entry);
            }
            (None, None) => return Err(self.no_place(reference)),
        }
        Ok(Extent::WithCall)
    }

    /// `lea x@tlsld(%rip), %rdi; call __tls_get_addr`
    fn local_dynamic(&mut self, reference: &Reference<'_>) -> Result<Extent, Refusal> {
        const LEA: [u8; 3] = [0x48, 0x8d, 0x3d];
        const CALLS: [&[u8]; 2] = [&[0xe8], &[0xff, 0x15]];
        let start = self.sequence(reference, &LEA, &CALLS)?;
        let call = self.call_after(reference, &CALLS).unwrap_or_default();
        let length = LEA.len() + call.len() + 2 * FIELD as usize;
        let filler = vec![FILLER; length - READ_THREAD_POINTER.len()];
        let code = [&filler[..], &READ_THREAD_POINTER].concat();
        self.draft.write(start, &code);
        Ok(Extent::WithCall)
    }

    /// The start of a sequence of two instructions, each ending in a field, the first of which is
    /// the reference's.
    fn sequence(
        &self,
        reference: &Reference<'_>,
        first: &[u8],
        calls: &[&[u8]],
    ) -> Result<Spot, Refusal> {
        let place = reference.reloc.place;
        let length = first.len() as u64;
        let start = place.checked_sub(length);
        let begins = start.is_some_and(|start| reference.item.bytes_in(start..place) == first);
        let calls = self.call_after(reference, calls).is_some();
        match reference.place.offset.checked_sub(length) {
            Some(offset) if begins && calls => Ok(Spot {
                offset,
                ..reference.place
            }),
            _ => Err(self.no_place(reference)),
        }
    }

    /// The opcode after the reference, if it is a call with a relocated field.
    fn call_after<'c>(&self, reference: &Reference<'_>, calls: &[&'c [u8]]) -> Option<&'c [u8]> {
        let after = reference.reloc.place + FIELD;
        let is_there = |call: &&[u8]| {
            let field = after + call.len() as u64;
            reference.item.bytes_in(after..field) == *call
                && reference.item.relocations_in(after..field + FIELD).len() == 1
        };
        calls.iter().copied().find(is_there)
    }

    /// The variable's distance from the thread pointer.
    fn distance(&self, reference: &Reference<'_>) -> Option<u64> {
        let known = self
            .binding(reference, Class::TlsOffset)
            .map(|value| value.wrapping_add_signed(reference.reloc.offset));
        let from_thread_pointer = self.is_local_exec(reference);
        known.or_else(|| self.dtp_offset(reference).filter(|_| from_thread_pointer))
    }

    fn dtp_offset(&self, reference: &Reference<'_>) -> Option<u64> {
        self.binding(reference, Class::TlsEntry(elf::R_X86_64_DTPOFF32))
            .map(|value| value.wrapping_add_signed(reference.reloc.offset))
    }

    /// The binary is a program whose linker made constants of its own variables' places.
    fn is_local_exec(&self, reference: &Reference<'_>) -> bool {
        let correlation = &self.linked[reference.unit].correlation;
        let module = Referent::module();
        correlation
            .binding(&module, Class::TlsEntry(elf::R_X86_64_TLSLD))
            .is_none()
            && (correlation.has(Class::TlsOffset) || correlation.has(Class::TlsFromThreadPointer))
    }

    fn tls_entry(&mut self, reference: &Reference<'_>, place: Spot, entry: u64) {
        let name = format!("{}.tls", self.symbol(reference));
        self.tls_field(reference, place, object_target(&name, LinkAddress(entry)));
    }

    /// The field at `place`, which is as far from the end of its instruction as the reference's
    /// own.
    fn tls_field(&mut self, reference: &Reference<'_>, place: Spot, target: FixupTarget) {
        let Reloc { tail, .. } = *reference.reloc;
        self.draft.fixup(Fixup {
            place,
            kind: RelocationKind::PcRelative32,
            target,
            addend: -i64::from(tail),
        });
    }

    fn write_offset(&mut self, place: Spot, value: u64) {
        let bytes = value.to_le_bytes();
        self.draft.write(place, bytes.get(..4).unwrap_or_default());
    }

    fn no_place(&self, reference: &Reference<'_>) -> Refusal {
        Refusal::ThreadLocalPlace {
            function: self.user(reference),
            symbol: self.symbol(reference),
            binary: self.binary.file_name(),
        }
    }
}
