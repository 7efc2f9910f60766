//! A reference of new code.

use super::draft::Spot;
use crate::unit::{Item, ItemId, Referent, Reloc};

/// A reference with what is needed to resolve it and to talk about it.
pub(super) struct Reference<'r> {
    pub(super) unit: usize,
    pub(super) id: ItemId,
    pub(super) item: &'r Item,
    pub(super) reloc: &'r Reloc,
    pub(super) place: Spot,
}

/// How many relocations were resolved at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    One,
    /// The next relocation as well, which belongs to the call of `__tls_get_addr`.
    WithCall,
}

impl<'r> Reference<'r> {
    /// A reference of something that belongs to an item.
    pub(super) fn new(
        (unit, id, item): (usize, ItemId, &'r Item),
        reloc: &'r Reloc,
        place: Spot,
    ) -> Self {
        Self {
            unit,
            id,
            item,
            reloc,
            place,
        }
    }

    pub(super) fn is_weak(&self) -> bool {
        matches!(self.reloc.referent, Referent::Undefined { weak: true, .. })
    }
}
