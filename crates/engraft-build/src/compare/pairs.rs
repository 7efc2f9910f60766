//! Which item of the fixed object is which of the original.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::unit::{ItemId, Unit};

/// A one-to-one relation between named items.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    to_original: HashMap<ItemId, ItemId>,
    to_fixed: HashMap<ItemId, ItemId>,
    /// Numbered variables of the fixed object that could be more than one of the original.
    pub(crate) ambiguous: BTreeSet<ItemId>,
}

impl Pairs {
    pub(crate) fn new(original: &Unit, fixed: &Unit) -> Self {
        let mut pairs = Self::default();
        pairs.by_name(original, fixed);
        pairs.clones(original, fixed);
        // Renumbered variables: first the variables that the same functions use, then the others.
        pairs.numbered(original, fixed, true);
        pairs.numbered(original, fixed, false);
        pairs
    }

    pub(crate) fn original(&self, fixed: ItemId) -> Option<ItemId> {
        self.to_original.get(&fixed).copied()
    }

    pub(crate) fn fixed(&self, original: ItemId) -> Option<ItemId> {
        self.to_fixed.get(&original).copied()
    }

    fn add(&mut self, original: ItemId, fixed: ItemId) {
        self.to_original.insert(fixed, original);
        self.to_fixed.insert(original, fixed);
    }

    fn by_name(&mut self, original: &Unit, fixed: &Unit) {
        for (id, item) in fixed
            .all()
            .filter(|(_, item)| !item.name.is_empty() && !item.is_numbered())
        {
            if let Some(&other) = original.names.get(&item.name)
                && !self.to_fixed.contains_key(&other)
                && original.item(other).is_some_and(|o| !o.is_numbered())
            {
                self.add(other, id);
            }
        }
    }

    /// `.constprop.0` may have become `.constprop.1`.
    fn clones(&mut self, original: &Unit, fixed: &Unit) {
        let key = |unit: &Unit, id: ItemId| {
            let item = unit
                .item(id)
                .filter(|item| item.is_clone() || item.is_cold_part())?;
            let words = item
                .name
                .split('.')
                .filter(|word| word.parse::<u64>().is_err());
            Some((
                words.map(str::to_owned).collect::<Vec<_>>(),
                0,
                BTreeSet::new(),
            ))
        };
        let (left, right) = (self.left(original, key), self.right(fixed, key));
        for (key, originals) in left {
            if let ([o], Some([f])) = (originals.as_slice(), right.get(&key).map(Vec::as_slice)) {
                self.add(*o, *f);
            }
        }
    }

    fn numbered(&mut self, original: &Unit, fixed: &Unit, with_users: bool) {
        let key = |unit: &Unit, id: ItemId| numbered_key(unit, id, with_users);
        let (left, right) = (self.left(original, key), self.right(fixed, key));
        self.ambiguous.clear();
        for (key, originals) in left {
            let Some(candidates) = right.get(&key) else {
                continue;
            };
            if originals.len() != candidates.len() {
                self.ambiguous.extend(candidates);
                continue;
            }
            // Numbers grow in the order of the source.
            for (&o, &f) in originals.iter().zip(candidates) {
                if users(original, o).is_disjoint(&users(fixed, f)) {
                    self.ambiguous.insert(f);
                } else {
                    self.add(o, f);
                }
            }
        }
    }

    fn left(&self, original: &Unit, key: impl Fn(&Unit, ItemId) -> Option<Key>) -> Groups {
        let free = original
            .all()
            .filter(|(id, _)| !self.to_fixed.contains_key(id));
        groups(original, free.map(|(id, _)| id), key)
    }

    fn right(&self, fixed: &Unit, key: impl Fn(&Unit, ItemId) -> Option<Key>) -> Groups {
        let free = fixed
            .all()
            .filter(|(id, _)| !self.to_original.contains_key(id));
        groups(fixed, free.map(|(id, _)| id), key)
    }
}

/// Words of the name, size, names of the functions that use it.
type Key = (Vec<String>, u64, BTreeSet<String>);
type Groups = BTreeMap<Key, Vec<ItemId>>;

fn groups(
    unit: &Unit,
    ids: impl Iterator<Item = ItemId>,
    key: impl Fn(&Unit, ItemId) -> Option<Key>,
) -> Groups {
    let mut groups = Groups::new();
    for id in ids {
        if let Some(key) = key(unit, id) {
            groups.entry(key).or_default().push(id);
        }
    }
    for ids in groups.values_mut() {
        ids.sort_by_key(|&id| unit.item(id).map(|item| number(&item.name)));
    }
    groups
}

fn number(name: &str) -> u64 {
    name.split('.')
        .skip(1)
        .find_map(|word| word.parse().ok())
        .unwrap_or(0)
}

fn numbered_key(unit: &Unit, id: ItemId, with_users: bool) -> Option<Key> {
    let item = unit
        .item(id)
        .filter(|item| item.is_numbered() && !item.is_content())?;
    let users = if with_users {
        users(unit, id)
    } else {
        BTreeSet::new()
    };
    Some((vec![item.base_name().to_owned()], item.size, users))
}

/// Names of the functions that use an item.
fn users(unit: &Unit, id: ItemId) -> BTreeSet<String> {
    unit.functions()
        .filter(|(_, function)| unit.referred(function).contains(&id))
        .map(|(_, function)| function.base_name().to_owned())
        .collect()
}
