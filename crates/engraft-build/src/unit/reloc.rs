//! A relocation of an item, and what it refers to.

use object::elf;

use super::item::ItemId;

/// A relocation of an item.
#[derive(Debug, Clone)]
pub(crate) struct Reloc {
    /// Offset in the item.
    pub(crate) place: u64,
    /// `R_X86_64_*`.
    pub(crate) r_type: elf::RelocationType,
    pub(crate) referent: Referent,
    /// Offset in the referent that is meant, the distance of a PC-relative field from the end of
    /// its instruction taken out.
    pub(crate) offset: i64,
    /// That distance: 4 where nothing follows the field. 0 for fields that are not PC-relative.
    pub(crate) tail: u8,
    pub(crate) flow: Flow,
    /// It names the referent by a symbol that no other object sees, as GCC does in recursive
    /// functions of libraries (`.localalias`): it means this very function, and never a PLT entry.
    pub(crate) is_local: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Referent {
    Item(ItemId),
    Undefined { name: String, weak: bool },
}

/// What the instruction does with a relocated operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    Call,
    Jump,
    /// Anything else: the address is data.
    Value,
}

impl Reloc {
    /// What decides the value of its field. Whichever variable it names, [`elf::R_X86_64_TLSLD`]
    /// means the module.
    pub(crate) fn bound_to(&self) -> Referent {
        match self.r_type {
            elf::R_X86_64_TLSLD => Referent::module(),
            _ => self.referent.clone(),
        }
    }
}

impl Referent {
    /// The module itself, which has no name.
    pub(crate) fn module() -> Self {
        Self::Undefined {
            name: String::new(),
            weak: false,
        }
    }
}
