//! The original and the fixed object of one compile, and how they differ.

use std::collections::{BTreeSet, HashSet};

use super::pairs::Pairs;
use super::users::{Users, collect_users, owner};
use crate::unit::{Item, ItemId, Kind, Referent, Reloc, Unit};

/// The two objects of one compile, and how they differ.
#[derive(Debug)]
pub(crate) struct Comparison {
    pub(crate) original: Unit,
    pub(crate) fixed: Unit,
    pub(crate) pairs: Pairs,
    /// Functions (no cold parts) in both whose code differs, by their item in the original.
    pub(crate) changed: BTreeSet<ItemId>,
    /// Functions that only the fixed object has.
    pub(crate) new: BTreeSet<ItemId>,
    /// Functions that only the original has.
    pub(crate) removed: BTreeSet<ItemId>,
    /// Named data in both whose content or size differs, by its item in the original.
    pub(crate) changed_data: BTreeSet<ItemId>,
    /// Constructors or destructors differ.
    pub(crate) loader_calls_differ: bool,
}

impl Comparison {
    pub(crate) fn new(original: Unit, fixed: Unit) -> Self {
        let pairs = Pairs::new(&original, &fixed);
        let mut comparison = Self {
            original,
            fixed,
            pairs,
            changed: BTreeSet::new(),
            new: BTreeSet::new(),
            removed: BTreeSet::new(),
            changed_data: BTreeSet::new(),
            loader_calls_differ: false,
        };
        comparison.compare_functions();
        comparison.compare_data();
        comparison.loader_calls_differ = comparison.loader_calls_differ();
        comparison
    }

    /// True if nothing that reaches the binary differs.
    pub(crate) fn is_same(&self) -> bool {
        self.changed.is_empty()
            && self.changed_data.is_empty()
            && self.new.is_empty()
            && !self.loader_calls_differ
    }

    /// Names of what the fix changes in the original: functions, and data.
    pub(crate) fn names_of_changed(&self) -> Vec<String> {
        let changed = self.changed.iter().chain(&self.changed_data);
        let items = changed.filter_map(|&id| self.original.item(id));
        items.map(|item| item.name.clone()).collect()
    }

    /// The function of the original that an item belongs to: itself, or the one whose cold part it
    /// is.
    pub(crate) fn owner(&self, id: ItemId) -> Option<ItemId> {
        owner(&self.original, id)
    }

    /// The same in the fixed object.
    pub(crate) fn fixed_owner(&self, id: ItemId) -> Option<ItemId> {
        owner(&self.fixed, id)
    }

    fn compare_functions(&mut self) {
        let mut changed = BTreeSet::new();
        let mut new = BTreeSet::new();
        for (id, item) in self.fixed.functions() {
            match self.pairs.original(id) {
                Some(original) if self.same_item(original, id) => {}
                Some(original) => changed.extend(self.owner(original)),
                // A new cold part shows as a change of its function, which now jumps there.
                None if item.is_cold_part() => {}
                None => {
                    new.insert(id);
                }
            }
        }
        let removed = self
            .original
            .functions()
            .filter(|(id, item)| self.pairs.fixed(*id).is_none() && !item.is_cold_part())
            .map(|(id, _)| id);
        self.removed = removed.collect();
        // A lost cold part changes its function too, and it may even be that the function is gone.
        changed.retain(|id| self.pairs.fixed(*id).is_some());
        (self.changed, self.new) = (changed, new);
    }

    fn compare_data(&mut self) {
        let named = self.original.all().filter(|(_, item)| {
            let data = matches!(
                item.kind,
                Kind::Data | Kind::Bss | Kind::ReadOnly | Kind::Tls | Kind::Ifunc
            );
            data && !item.is_content() && !item.name.is_empty()
        });
        let differs = |&(id, _): &(ItemId, &Item)| {
            self.pairs
                .fixed(id)
                .is_some_and(|fixed| !self.same_item(id, fixed))
        };
        self.changed_data = named.filter(differs).map(|(id, _)| id).collect();
    }

    fn loader_calls_differ(&self) -> bool {
        let calls = |unit: &Unit| -> Vec<ItemId> {
            unit.all()
                .filter(|(_, item)| item.kind == Kind::LoaderCalls)
                .map(|(id, _)| id)
                .collect()
        };
        let (original, fixed) = (calls(&self.original), calls(&self.fixed));
        original.len() != fixed.len()
            || original
                .iter()
                .zip(&fixed)
                .any(|(&o, &f)| !self.same_item(o, f))
    }

    fn same_item(&self, original: ItemId, fixed: ItemId) -> bool {
        let (Some(o), Some(f)) = (self.original.item(original), self.fixed.item(fixed)) else {
            return false;
        };
        let seen = &mut HashSet::from([(original, fixed)]);
        o.kind == f.kind && o.size == f.size && self.same_range(o, 0..o.size, f, 0..f.size, seen)
    }

    fn same_range(
        &self,
        original: &Item,
        original_range: std::ops::Range<u64>,
        fixed: &Item,
        fixed_range: std::ops::Range<u64>,
        seen: &mut HashSet<(ItemId, ItemId)>,
    ) -> bool {
        let (o_start, f_start) = (original_range.start, fixed_range.start);
        let o_relocs = original.relocations_in(original_range.clone());
        let f_relocs = fixed.relocations_in(fixed_range.clone());
        original.bytes_in(original_range) == fixed.bytes_in(fixed_range)
            && o_relocs.len() == f_relocs.len()
            && o_relocs.iter().zip(f_relocs).all(|(o, f)| {
                o.place - o_start == f.place - f_start
                    && o.r_type == f.r_type
                    && self.same_referent(o, f, seen)
            })
    }

    fn same_referent(&self, o: &Reloc, f: &Reloc, seen: &mut HashSet<(ItemId, ItemId)>) -> bool {
        match (&o.referent, &f.referent) {
            (Referent::Undefined { name, .. }, Referent::Undefined { name: other, .. }) => {
                name == other && o.offset == f.offset
            }
            (Referent::Item(original), Referent::Item(fixed)) => {
                self.same_target((*original, o.offset), (*fixed, f.offset), seen)
            }
            _ => false,
        }
    }

    fn same_target(
        &self,
        (original, o_offset): (ItemId, i64),
        (fixed, f_offset): (ItemId, i64),
        seen: &mut HashSet<(ItemId, ItemId)>,
    ) -> bool {
        let (Some(o), Some(f)) = (self.original.item(original), self.fixed.item(fixed)) else {
            return false;
        };
        if !(o.is_content() && f.is_content()) {
            return self.pairs.original(fixed) == Some(original) && o_offset == f_offset;
        }
        // A table may refer back to what refers to it.
        if !seen.insert((original, fixed)) {
            return true;
        }
        let (o_range, f_range) = (o.extent(o_offset), f.extent(f_offset));
        let relative = |offset: i64, range: &std::ops::Range<u64>| {
            i128::from(offset) - i128::from(range.start)
        };
        let same = relative(o_offset, &o_range) == relative(f_offset, &f_range)
            && self.same_range(o, o_range, f, f_range, seen);
        seen.remove(&(original, fixed));
        same
    }

    /// Functions of the original and of the fixed object that use an item of the original, directly
    /// or through other data; and data that does, where it is not itself only content.
    pub(crate) fn users(&self, data: ItemId) -> Users {
        let mut users = Users::default();
        collect_users(&self.original, data, &mut |id| {
            users.add(&self.original, self.owner(id), id)
        });
        if let Some(fixed) = self.pairs.fixed(data) {
            collect_users(&self.fixed, fixed, &mut |id| {
                let owner = self.fixed_owner(id);
                match owner.and_then(|owner| self.pairs.original(owner)) {
                    Some(original) => users.add(&self.original, Some(original), original),
                    // A new function is no old user.
                    None if owner.is_some() => {}
                    None => users.add(&self.fixed, None, id),
                }
            });
        }
        users
    }
}
