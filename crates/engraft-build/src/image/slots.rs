//! GOT slots, and stubs that jump through them.

use engraft_patch::{LinkAddress, RelocationKind};

use super::builder::{Builder, SlotKey};
use super::draft::{Area, Fixup, FixupTarget, Spot, object_target};

impl Builder<'_> {
    pub(super) fn has_slot(&self, name: &str) -> bool {
        let slots = self.binary.slots(name);
        slots.jump.or(slots.data).is_some()
    }

    /// A jump through the binary's own GOT slot: right in whatever state the module is, and as lazy
    /// as it is.
    pub(super) fn stub_to_slot(&mut self, name: &str) -> FixupTarget {
        let slots = self.binary.slots(name);
        let address = slots.jump.or(slots.data).unwrap_or(LinkAddress(0));
        let target = object_target(&format!("{name}.got"), address);
        FixupTarget::Spot(self.stub(SlotKey::Name(name.to_owned()), target))
    }

    /// `jmp *slot(%rip)`
    pub(super) fn stub(&mut self, key: SlotKey, slot: FixupTarget) -> Spot {
        if let Some(&stub) = self.stubs.get(&key) {
            return stub;
        }
        let stub = self.draft.add(Area::Text, &[0xff, 0x25, 0, 0, 0, 0], 6, 8);
        let place = Spot {
            area: Area::Text,
            offset: stub.offset + 2,
        };
        let kind = RelocationKind::PcRelative32;
        self.draft.fixup(Fixup {
            place,
            kind,
            target: slot,
            addend: -4,
        });
        self.stubs.insert(key, stub);
        stub
    }

    /// A GOT slot of a weak symbol that nothing defines.
    pub(super) fn null_slot(&mut self, key: SlotKey) -> Spot {
        let draft = &mut self.draft;
        let slots = &mut self.slots;
        *slots
            .entry(key)
            .or_insert_with(|| draft.add(Area::ReadOnly, &[0; 8], 8, 8))
    }

    /// A GOT slot of the image.
    pub(super) fn slot(&mut self, key: SlotKey, content: FixupTarget) -> Spot {
        if let Some(&slot) = self.slots.get(&key) {
            return slot;
        }
        let place = self.draft.add(Area::Data, &[0; 8], 8, 8);
        let kind = RelocationKind::Absolute64;
        self.draft.fixup(Fixup {
            place,
            kind,
            target: content,
            addend: 0,
        });
        self.slots.insert(key, place);
        place
    }
}
