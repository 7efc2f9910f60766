//! Which function an item belongs to, and which functions use it.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::unit::{ItemId, Kind, Unit};

/// Who refers to some data.
#[derive(Debug, Default)]
pub(crate) struct Users {
    /// Functions, by their item in the original.
    pub(crate) functions: BTreeSet<ItemId>,
    /// Names of other data.
    pub(crate) data: BTreeSet<String>,
}

impl Users {
    pub(super) fn add(&mut self, unit: &Unit, owner: Option<ItemId>, id: ItemId) {
        match owner {
            Some(function) => {
                self.functions.insert(function);
            }
            None => self
                .data
                .extend(unit.item(id).map(|item| item.name.clone())),
        }
    }
}

pub(super) fn collect_users(unit: &Unit, data: ItemId, found: &mut dyn FnMut(ItemId)) {
    let mut wanted = vec![data];
    let mut seen = HashSet::from([data]);
    while let Some(target) = wanted.pop() {
        for (id, item) in unit.all() {
            if !unit.referred(item).contains(&target) || !seen.insert(id) {
                continue;
            }
            if item.is_content() {
                wanted.push(id);
            } else {
                found(id);
            }
        }
    }
}

/// The function that an item belongs to: itself, or the one whose cold part it is.
pub(super) fn owner(unit: &Unit, id: ItemId) -> Option<ItemId> {
    let item = unit.item(id)?;
    if item.kind != Kind::Function {
        return None;
    }
    match item.cold_parent_name().filter(|_| item.is_cold_part()) {
        Some(parent) => unit.names.get(parent).copied(),
        None => Some(id),
    }
}

/// Cold parts by the function they belong to.
pub(crate) fn cold_parts(unit: &Unit) -> HashMap<ItemId, Vec<ItemId>> {
    let mut parts: HashMap<ItemId, Vec<ItemId>> = HashMap::new();
    for (id, item) in unit.functions().filter(|(_, item)| item.is_cold_part()) {
        if let Some(parent) = item
            .cold_parent_name()
            .and_then(|name| unit.names.get(name))
        {
            parts.entry(*parent).or_default().push(id);
        }
    }
    parts
}
