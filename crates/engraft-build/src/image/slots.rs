//! GOT slots, stubs that jump through them, and places of thread-local variables.

use engraft_patch::{LinkAddress, RelocationKind};
use object::elf;

use super::references::{Reference, object_target};
use super::{Builder, SlotKey};
use crate::correlate::Class;
use crate::layout::{Area, Fixup, Spot, Target};
use crate::refusal::Refusal;
use crate::unit::{Referent, Reloc};

impl Builder<'_> {
    /// Thread-local variables are where the binary's own code finds them.
    pub(super) fn thread_local(&mut self, reference: &Reference<'_>) -> Result<(), Refusal> {
        let Reloc {
            offset,
            tail,
            r_type,
            ..
        } = *reference.reloc;
        let placed = &self.placed[reference.unit];
        let key = match &reference.reloc.referent {
            Referent::Item(id) => placed.comparison.pairs.original(*id).map(Referent::Item),
            undefined => Some(undefined.clone()),
        };
        let binding = |class| placed.correlation.binding(key.as_ref()?, class);
        let (place, kind) = (reference.place, RelocationKind::PcRelative32);
        let addend = -i64::from(tail);
        let entry = binding(Class::TlsEntry(r_type));
        let distance = binding(Class::TlsOffset);
        match (r_type, entry, distance) {
            (elf::R_X86_64_TPOFF32, _, Some(value)) | (elf::R_X86_64_DTPOFF32, Some(value), _) => {
                let value = value.wrapping_add_signed(offset).to_le_bytes();
                self.layout.write(place, value.get(..4).unwrap_or_default());
            }
            (
                elf::R_X86_64_GOTTPOFF | elf::R_X86_64_TLSGD | elf::R_X86_64_TLSLD,
                Some(entry),
                _,
            ) => {
                let name = format!("{}.tls", self.symbol(reference));
                let target = object_target(&name, LinkAddress(entry));
                self.layout.fixup(Fixup {
                    place,
                    kind,
                    target,
                    addend,
                });
            }
            (elf::R_X86_64_GOTTPOFF, None, Some(value)) => {
                // The linker had no need for a slot; the code as compiled has.
                let slots = &mut self.slots;
                let layout = &mut self.layout;
                let slot = *slots
                    .entry(SlotKey::ThreadLocal(value))
                    .or_insert_with(|| layout.add(Area::ReadOnly, &value.to_le_bytes(), 8, 8));
                let target = Target::Spot(slot);
                self.layout.fixup(Fixup {
                    place,
                    kind,
                    target,
                    addend,
                });
            }
            _ => {
                let (function, symbol) = (self.user(reference), self.symbol(reference));
                let binary = self.binary.file_name();
                return Err(Refusal::ThreadLocalPlace {
                    function,
                    symbol,
                    binary,
                });
            }
        }
        Ok(())
    }

    pub(super) fn has_slot(&self, name: &str) -> bool {
        let slots = self.binary.slots(name);
        slots.jump.or(slots.data).is_some()
    }

    /// A jump through the binary's own GOT slot: right in whatever state the module is, and as lazy as it is.
    pub(super) fn stub_to_slot(&mut self, name: &str) -> Target {
        let slots = self.binary.slots(name);
        let address = slots.jump.or(slots.data).unwrap_or(LinkAddress(0));
        let target = object_target(&format!("{name}.got"), address);
        Target::Spot(self.stub(SlotKey::Name(name.to_owned()), target))
    }

    /// `jmp *slot(%rip)`
    pub(super) fn stub(&mut self, key: SlotKey, slot: Target) -> Spot {
        if let Some(&stub) = self.stubs.get(&key) {
            return stub;
        }
        let stub = self.layout.add(Area::Text, &[0xff, 0x25, 0, 0, 0, 0], 6, 8);
        let place = Spot {
            area: Area::Text,
            offset: stub.offset + 2,
        };
        let kind = RelocationKind::PcRelative32;
        self.layout.fixup(Fixup {
            place,
            kind,
            target: slot,
            addend: -4,
        });
        self.stubs.insert(key, stub);
        stub
    }

    /// A GOT slot of the image.
    pub(super) fn slot(&mut self, key: SlotKey, content: Target) -> Spot {
        if let Some(&slot) = self.slots.get(&key) {
            return slot;
        }
        let place = self.layout.add(Area::Data, &[0; 8], 8, 8);
        let kind = RelocationKind::Absolute64;
        self.layout.fixup(Fixup {
            place,
            kind,
            target: content,
            addend: 0,
        });
        self.slots.insert(key, place);
        place
    }
}
