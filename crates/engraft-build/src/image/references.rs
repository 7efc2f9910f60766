//! What each reference of new code becomes.

use engraft_patch::{Import, LinkAddress, RelocationKind, RelocationTarget};
use object::elf;

use super::builder::{Builder, SlotKey};
use super::draft::{Fixup, FixupTarget, Spot, object_target};
use super::reference::{Extent, Reference};
use crate::correlate::{Class, variable_by_name};
use crate::refusal::Refusal;
use crate::unit::{Flow, ItemId, Kind, Referent, Reloc};

impl Builder<'_> {
    /// Follows the references of everything in the image until nothing new comes.
    pub(super) fn include_referenced(&mut self) {
        while let Some((unit, id)) = self.queue.pop() {
            let Some(item) = self.item(unit, id) else {
                continue;
            };
            let mut relocations = item.relocations.iter();
            while let Some(reloc) = relocations.next() {
                match self.reference(unit, id, reloc) {
                    Ok(Extent::One) => {}
                    Ok(Extent::WithCall) => {
                        relocations.next();
                    }
                    Err(refusal) => self.refusals.push(refusal),
                }
            }
        }
        self.refusals.dedup();
    }

    /// Resolves one reference of an item that is in the image.
    pub(super) fn reference(
        &mut self,
        unit: usize,
        id: ItemId,
        reloc: &Reloc,
    ) -> Result<Extent, Refusal> {
        let Some(item) = self.item(unit, id) else {
            return Ok(Extent::One);
        };
        let start = self.include(unit, id);
        let place = Spot {
            area: start.area,
            offset: start.offset + reloc.place,
        };
        let reference = Reference::new((unit, id, item), reloc, place);
        let kind = match reloc.r_type {
            elf::R_X86_64_NONE => return Ok(Extent::One),
            elf::R_X86_64_PC32 | elf::R_X86_64_PLT32 => RelocationKind::PcRelative32,
            elf::R_X86_64_64 => RelocationKind::Absolute64,
            elf::R_X86_64_32 => RelocationKind::Absolute32,
            elf::R_X86_64_32S => RelocationKind::Absolute32Signed,
            elf::R_X86_64_PC64 => RelocationKind::PcRelative64,
            elf::R_X86_64_GOTPCREL | elf::R_X86_64_GOTPCRELX | elf::R_X86_64_REX_GOTPCRELX => {
                return self.through_slot(&reference);
            }
            elf::R_X86_64_TPOFF32
            | elf::R_X86_64_DTPOFF32
            | elf::R_X86_64_GOTTPOFF
            | elf::R_X86_64_TLSGD
            | elf::R_X86_64_TLSLD => return self.thread_local(&reference),
            r_type => {
                let (function, symbol) = (self.user(&reference), self.symbol(&reference));
                return Err(Refusal::UnsupportedRelocation {
                    function,
                    symbol,
                    r_type: r_type.0,
                });
            }
        };
        if let Some(thunk) = self.caller_thunk(&reference)? {
            self.draft.fixup(Fixup {
                place,
                kind,
                target: FixupTarget::Spot(thunk),
                addend: -i64::from(reloc.tail),
            });
            return Ok(Extent::One);
        }
        if reloc.flow == Flow::Value && self.is_null(&reference) {
            return self.null_value(&reference, kind);
        }
        let (target, offset) = self.target(&reference, kind)?;
        let addend = offset.saturating_sub(i64::from(reloc.tail));
        self.draft.fixup(Fixup {
            place,
            kind,
            target,
            addend,
        });
        Ok(Extent::One)
    }

    fn target(
        &mut self,
        reference: &Reference<'_>,
        kind: RelocationKind,
    ) -> Result<(FixupTarget, i64), Refusal> {
        let offset = reference.reloc.offset;
        match &reference.reloc.referent {
            Referent::Item(id) => match self.item(reference.unit, *id) {
                Some(item) if item.kind == Kind::Function => self.function_target(reference, *id),
                _ => Ok((self.data_target(reference, *id)?, offset)),
            },
            Referent::Undefined { name, weak } if reference.reloc.flow != Flow::Value => {
                Ok((self.call_target(reference, name, *weak)?, 0))
            }
            Referent::Undefined { name, weak } => {
                if let Some(target) = self.known(reference, name) {
                    Ok((target, offset))
                } else if kind == RelocationKind::Absolute64 && offset == 0 {
                    Ok((self.import(reference, name, *weak)?, 0))
                } else {
                    let (function, binary) = (self.user(reference), self.binary.file_name());
                    Err(Refusal::ImportByAddress {
                        function,
                        symbol: name.clone(),
                        binary,
                    })
                }
            }
        }
    }

    fn function_target(
        &mut self,
        reference: &Reference<'_>,
        id: ItemId,
    ) -> Result<(FixupTarget, i64), Refusal> {
        let comparison = self.linked[reference.unit].comparison;
        let Reloc {
            offset,
            flow,
            is_local,
            ..
        } = *reference.reloc;
        let Some(item) = self.item(reference.unit, id) else {
            return Err(self.unknown(reference));
        };
        let own = comparison.fixed_owner(reference.id);
        let same = own.is_some() && own == comparison.fixed_owner(id);
        let from_cold = reference.item.is_cold_part() && flow == Flow::Jump;
        let is_table = reference.item.is_content() && offset != 0;
        if item.is_cold_part() || is_table || (same && (offset != 0 || from_cold)) {
            // The middle of new code: of its own function, or of what a jump table belongs to.
            return Ok((FixupTarget::Spot(self.include(reference.unit, id)), offset));
        }
        if offset != 0 {
            let (function, symbol) = (self.user(reference), item.name.clone());
            return Err(Refusal::InsideFunction { function, symbol });
        }
        if item.global && !is_local && flow != Flow::Value && self.has_slot(&item.name) {
            return Ok((self.stub_to_slot(&item.name), 0));
        }
        Ok((self.function_address(reference, id, flow)?, 0))
    }

    /// The old entry of a function that the binary has, else its place in the image.
    fn function_address(
        &mut self,
        reference: &Reference<'_>,
        id: ItemId,
        flow: Flow,
    ) -> Result<FixupTarget, Refusal> {
        let linked = &self.linked[reference.unit];
        let Some(item) = self.item(reference.unit, id) else {
            return Err(self.unknown(reference));
        };
        let Some(original) = linked.comparison.pairs.original(id) else {
            self.escapes |= flow == Flow::Value;
            return Ok(FixupTarget::Spot(self.include(reference.unit, id)));
        };
        let correlation = &linked.correlation;
        let key = Referent::Item(original);
        // A call may have gone through the PLT, which is not where the function is.
        let by_call = || {
            let code = correlation.binding(&key, Class::Code);
            let code = code.filter(|_| !item.global);
            code.or_else(|| correlation.binding(&key, Class::LocalCode))
        };
        let located = correlation
            .located
            .get(&original)
            .map(|found| found.address);
        let address = located
            .or_else(|| correlation.binding(&key, Class::Address))
            .or_else(by_call)
            .or_else(|| variable_by_name(&linked.comparison.original, original, self.binary));
        let address = address.ok_or_else(|| self.unknown(reference))?;
        Ok(object_target(&item.name, LinkAddress(address)))
    }

    fn data_target(
        &mut self,
        reference: &Reference<'_>,
        id: ItemId,
    ) -> Result<FixupTarget, Refusal> {
        let linked = &self.linked[reference.unit];
        let Some(item) = self.item(reference.unit, id) else {
            return Err(self.unknown(reference));
        };
        if item.is_content() {
            return Ok(FixupTarget::Spot(self.include(reference.unit, id)));
        }
        if linked.comparison.pairs.ambiguous.contains(&id) {
            let (function, symbol) = (self.user(reference), item.name.clone());
            return Err(Refusal::AmbiguousVariable { function, symbol });
        }
        let original = linked.comparison.pairs.original(id);
        let Some(original) = original.filter(|original| !linked.shipped.contains(original)) else {
            return Ok(FixupTarget::Spot(self.include(reference.unit, id)));
        };
        let key = Referent::Item(original);
        let address = linked
            .correlation
            .binding(&key, Class::Address)
            .or_else(|| linked.correlation.binding(&key, Class::Code))
            .or_else(|| variable_by_name(&linked.comparison.original, original, self.binary));
        match address {
            Some(address) => Ok(object_target(&item.name, LinkAddress(address))),
            // A copy of what never changes is as good.
            None if item.kind == Kind::ReadOnly => {
                Ok(FixupTarget::Spot(self.include(reference.unit, id)))
            }
            None => Err(self.unknown(reference)),
        }
    }

    fn call_target(
        &mut self,
        reference: &Reference<'_>,
        name: &str,
        weak: bool,
    ) -> Result<FixupTarget, Refusal> {
        if self.has_slot(name) && self.added(reference).is_none() {
            return Ok(self.stub_to_slot(name));
        }
        if let Some(target) = self.known(reference, name) {
            return Ok(target);
        }
        let target = self.import(reference, name, weak)?;
        let key = SlotKey::Name(name.to_owned());
        let slot = self.slot(key.clone(), target);
        Ok(FixupTarget::Spot(self.stub(key, FixupTarget::Spot(slot))))
    }

    /// Where an undefined symbol of the object is, if not in another module.
    pub(super) fn known(&mut self, reference: &Reference<'_>, name: &str) -> Option<FixupTarget> {
        let key = &reference.reloc.referent;
        let is_value = reference.reloc.flow == Flow::Value;
        let class = if is_value {
            Class::Address
        } else {
            Class::Code
        };
        let correlation = &self.linked[reference.unit].correlation;
        // What can be pointed to can be called as well.
        let by_code = || {
            let exact = correlation.binding(key, class);
            let address = exact.or_else(|| correlation.binding(key, Class::Address));
            address.map(LinkAddress)
        };
        let old = self
            .old_globals
            .get(name)
            .map(|&address| LinkAddress(address));
        let found = old.or_else(by_code).or_else(|| self.binary.global(name));
        if let Some(address) = found.filter(|_| self.added(reference).is_none()) {
            return Some(object_target(name, address));
        }
        let &(unit, id) = self.new_globals.get(name)?;
        let is_function = self
            .item(unit, id)
            .is_some_and(|item| item.kind == Kind::Function);
        self.escapes |= is_value && is_function;
        Some(FixupTarget::Spot(self.include(unit, id)))
    }

    pub(super) fn import(
        &self,
        reference: &Reference<'_>,
        name: &str,
        weak: bool,
    ) -> Result<FixupTarget, Refusal> {
        let by_linker = name.is_empty()
            || [
                "_GLOBAL_OFFSET_TABLE_",
                "_DYNAMIC",
                "__dso_handle",
                "__ehdr_start",
            ]
            .contains(&name)
            || name.starts_with("__start_")
            || name.starts_with("__stop_");
        if by_linker || !self.binary.is_dynamic {
            return Err(self.unknown(reference));
        }
        let version = self.binary.version(name).map(str::to_owned);
        let import = Import {
            name: name.to_owned(),
            version,
            weak,
        };
        Ok(FixupTarget::Outside(RelocationTarget::Import(import)))
    }

    /// `mov foo@GOTPCREL(%rip), %rax` and the like: the operand is a slot that holds the address.
    fn through_slot(&mut self, reference: &Reference<'_>) -> Result<Extent, Refusal> {
        let Reloc {
            ref referent,
            offset,
            flow,
            tail,
            ..
        } = *reference.reloc;
        if offset != 0 {
            return Err(self.unknown(reference));
        }
        let name = self.symbol(reference);
        let slots = self.binary.slots(&name);
        let shared = slots.data.or(slots.jump.filter(|_| flow != Flow::Value));
        let by_code = || self.binding(reference, Class::GotSlot).map(LinkAddress);
        let shared = shared.or_else(by_code);
        let thunk = self.caller_thunk(reference)?;
        let shared =
            shared.filter(|_| self.is_global(reference) && self.added(reference).is_none());
        let target = if let Some(thunk) = thunk {
            FixupTarget::Spot(self.slot(SlotKey::Thunk(name), FixupTarget::Spot(thunk)))
        } else if let Some(slot) = shared {
            object_target(&format!("{name}.got"), slot)
        } else if self.is_null(reference) {
            FixupTarget::Spot(self.null_slot(SlotKey::Name(name)))
        } else {
            let (key, content) = match referent {
                Referent::Item(id) => {
                    let is_function = self
                        .item(reference.unit, *id)
                        .is_some_and(|i| i.kind == Kind::Function);
                    let content = if is_function {
                        self.function_address(reference, *id, flow)?
                    } else {
                        self.data_target(reference, *id)?
                    };
                    (SlotKey::Item(reference.unit, *id), content)
                }
                Referent::Undefined { name, weak } => {
                    let content = match self.known(reference, name) {
                        Some(target) => target,
                        None => self.import(reference, name, *weak)?,
                    };
                    (SlotKey::Name(name.clone()), content)
                }
            };
            FixupTarget::Spot(self.slot(key, content))
        };
        let (place, kind) = (reference.place, RelocationKind::PcRelative32);
        self.draft.fixup(Fixup {
            place,
            kind,
            target,
            addend: -i64::from(tail),
        });
        Ok(Extent::One)
    }

    /// What the old code says of a reference of new code.
    pub(super) fn binding(&self, reference: &Reference<'_>, class: Class) -> Option<u64> {
        let linked = &self.linked[reference.unit];
        let key = match reference.reloc.bound_to() {
            Referent::Item(id) => Referent::Item(linked.comparison.pairs.original(id)?),
            undefined => undefined,
        };
        linked.correlation.binding(&key, class)
    }

    /// A weak symbol that nothing defines, neither the binary nor the fix: its address is 0,
    /// wherever the binary is.
    fn is_null(&self, reference: &Reference<'_>) -> bool {
        reference.is_weak()
            && self.binding(reference, Class::Address) == Some(0)
            && self.added(reference).is_none()
    }

    /// What the fix defines of the name of a weak symbol that nothing in the binary defines.
    /// Whatever the old code says of its address, or will find in its slot, is nothing of use.
    pub(super) fn added(&self, reference: &Reference<'_>) -> Option<(usize, ItemId)> {
        let name = self.symbol(reference);
        let address = self.binding(reference, Class::Address);
        let is_defined = self.old_globals.contains_key(&name)
            || self.binary.global(&name).is_some()
            || address.is_some_and(|address| address != 0);
        let added = self.new_globals.get(&name).copied();
        added.filter(|_| reference.is_weak() && !is_defined)
    }

    /// Writes an address that is 0, which is not relative to the binary's.
    fn null_value(
        &mut self,
        reference: &Reference<'_>,
        kind: RelocationKind,
    ) -> Result<Extent, Refusal> {
        let value = reference.reloc.offset.to_le_bytes();
        let value = match kind {
            RelocationKind::Absolute64 => &value[..],
            RelocationKind::Absolute32 | RelocationKind::Absolute32Signed => &value[..4],
            RelocationKind::PcRelative32 | RelocationKind::PcRelative64 => {
                return Err(Refusal::DistanceToNull {
                    function: self.user(reference),
                    symbol: self.symbol(reference),
                    binary: self.binary.file_name(),
                });
            }
        };
        self.draft.write(reference.place, value);
        Ok(Extent::One)
    }

    pub(super) fn is_global(&self, reference: &Reference<'_>) -> bool {
        match &reference.reloc.referent {
            Referent::Item(id) => self
                .item(reference.unit, *id)
                .is_some_and(|item| item.global),
            Referent::Undefined { .. } => true,
        }
    }

    fn unknown(&self, reference: &Reference<'_>) -> Refusal {
        Refusal::UnknownAddress {
            function: self.user(reference),
            symbol: self.symbol(reference),
            binary: self.binary.file_name(),
        }
    }

    pub(super) fn user(&self, reference: &Reference<'_>) -> String {
        match reference.item.name.as_str() {
            "" => "a constant of the new code".to_owned(),
            name => name.to_owned(),
        }
    }

    pub(super) fn symbol(&self, reference: &Reference<'_>) -> String {
        match &reference.reloc.referent {
            Referent::Item(id) => self
                .item(reference.unit, *id)
                .map(|item| item.name.clone())
                .unwrap_or_default(),
            Referent::Undefined { name, .. } => name.clone(),
        }
    }
}
