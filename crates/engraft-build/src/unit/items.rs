//! The items of one object file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::frame_descriptions::FrameDescription;
use super::item::{Item, ItemId, Kind};
use super::reloc::{Referent, Reloc};

/// One object file.
#[derive(Debug)]
pub(crate) struct Unit {
    /// The source file, as the command line names it.
    pub(crate) source: PathBuf,
    pub(crate) items: Vec<Item>,
    /// Items by the names of all their symbols.
    pub(crate) names: HashMap<String, ItemId>,
    /// Call frame information of the functions.
    pub(crate) frames: Vec<FrameDescription>,
}

impl Unit {
    /// What a source file that is not there compiles to.
    pub(crate) fn empty(source: &Path) -> Self {
        Self {
            source: source.to_owned(),
            items: Vec::new(),
            names: HashMap::new(),
            frames: Vec::new(),
        }
    }

    /// True if there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(crate) fn item(&self, id: ItemId) -> Option<&Item> {
        self.items.get(id.0)
    }

    pub(crate) fn functions(&self) -> impl Iterator<Item = (ItemId, &Item)> {
        self.all()
            .filter(|(_, item)| item.kind == Kind::Function && !item.name.is_empty())
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (ItemId, &Item)> {
        self.items
            .iter()
            .enumerate()
            .map(|(index, item)| (ItemId(index), item))
    }

    /// The items that an item refers to.
    pub(crate) fn referred(&self, item: &Item) -> Vec<ItemId> {
        let referent = |reloc: &Reloc| match reloc.referent {
            Referent::Item(id) => Some(id),
            Referent::Undefined { .. } => None,
        };
        item.relocations.iter().filter_map(referent).collect()
    }
}
