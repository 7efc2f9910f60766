//! A compiled object whose original is in the binary.

use std::collections::BTreeSet;

use crate::compare::Comparison;
use crate::correlate::Correlation;
use crate::unit::ItemId;

/// A compiled object whose original is in the binary.
pub(crate) struct LinkedUnit<'a> {
    pub(crate) comparison: &'a Comparison,
    pub(crate) correlation: Correlation,
    /// Read-only data of the original whose fixed content comes with the new code.
    pub(crate) shipped: BTreeSet<ItemId>,
    /// Changed functions that another object brings: the linker kept one of several copies.
    pub(crate) elsewhere: BTreeSet<ItemId>,
}

impl<'a> LinkedUnit<'a> {
    /// An object that is not in the binary, for others to refer to.
    pub(crate) fn new(comparison: &'a Comparison) -> Self {
        Self {
            comparison,
            correlation: Correlation::default(),
            shipped: BTreeSet::new(),
            elsewhere: BTreeSet::new(),
        }
    }

    /// The functions that get new code from this object.
    pub(crate) fn changed(&self) -> impl Iterator<Item = ItemId> {
        let changed = self.comparison.changed.iter().copied();
        changed.filter(|id| !self.elsewhere.contains(id))
    }
}
