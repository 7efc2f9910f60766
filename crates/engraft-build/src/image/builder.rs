//! An image under construction, and what it is built from.

use std::collections::HashMap;
use std::ops::Range;

use super::draft::{Area, BSS_ALIGNMENT, ImageDraft, Spot};
use super::linked_unit::LinkedUnit;
use super::thunks::Thunks;
use crate::binary::Binary;
use crate::compare::Comparison;
use crate::refusal::Refusal;
use crate::unit::{Item, ItemId, Kind};

/// What GOT slots of the image and stubs are for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum SlotKey {
    Name(String),
    Item(usize, ItemId),
    ThreadLocal(u64),
    /// A function that looks at its caller: its thunk, or a slot with the thunk's address.
    Thunk(String),
}

pub(super) struct Builder<'a> {
    pub(super) binary: &'a Binary,
    pub(super) linked: &'a [LinkedUnit<'a>],
    pub(super) draft: ImageDraft,
    /// Items of fixed objects that are in the image.
    pub(super) spots: HashMap<(usize, ItemId), Spot>,
    /// Those whose references are still to be looked at.
    pub(super) queue: Vec<(usize, ItemId)>,
    pub(super) slots: HashMap<SlotKey, Spot>,
    pub(super) stubs: HashMap<SlotKey, Spot>,
    /// Functions and variables that fixed objects bring, by name: one object's may be used in
    /// another.
    pub(super) new_globals: HashMap<String, (usize, ItemId)>,
    /// Where the binary has global functions of the objects.
    pub(super) old_globals: HashMap<String, u64>,
    pub(super) thunks: Thunks,
    /// Where the functions are in the binary that get new code.
    pub(super) replaced: Vec<Range<u64>>,
    pub(super) escapes: bool,
    pub(super) refusals: Vec<Refusal>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(binary: &'a Binary, linked: &'a [LinkedUnit<'a>]) -> Self {
        let mut builder = Self {
            binary,
            linked,
            draft: ImageDraft::default(),
            spots: HashMap::new(),
            queue: Vec::new(),
            slots: HashMap::new(),
            stubs: HashMap::new(),
            new_globals: HashMap::new(),
            old_globals: HashMap::new(),
            thunks: Thunks::default(),
            replaced: Vec::new(),
            escapes: false,
            refusals: Vec::new(),
        };
        for (unit, object) in linked.iter().enumerate() {
            let Comparison {
                original,
                fixed,
                pairs,
                ..
            } = object.comparison;
            for (name, &id) in &fixed.names {
                if fixed.item(id).is_some_and(|item| item.global) && pairs.original(id).is_none() {
                    builder.new_globals.insert(name.clone(), (unit, id));
                }
            }
            for (id, found) in &object.correlation.located {
                if let Some(item) = original.item(*id).filter(|item| item.global) {
                    builder.old_globals.insert(item.name.clone(), found.address);
                }
            }
        }
        builder
    }

    /// Where an item of a fixed object is in the image; it is put there if it is not yet.
    pub(super) fn include(&mut self, unit: usize, id: ItemId) -> Spot {
        if let Some(&spot) = self.spots.get(&(unit, id)) {
            return spot;
        }
        let Some(item) = self.item(unit, id) else {
            return self.draft.add(Area::Data, &[], 0, 1);
        };
        let area = match item.kind {
            Kind::Function | Kind::Ifunc => Area::Text,
            Kind::ReadOnly | Kind::Constant => Area::ReadOnly,
            Kind::Bss if item.alignment <= BSS_ALIGNMENT => Area::Bss,
            Kind::Bss | Kind::Data | Kind::Tls | Kind::LoaderCalls => Area::Data,
        };
        let zeroes;
        let bytes = if area == Area::Data && item.bytes.is_empty() {
            zeroes = vec![0; usize::try_from(item.size).unwrap_or(0)];
            &zeroes
        } else {
            &item.bytes
        };
        let skew = item.section_offset % item.alignment;
        let spot = if skew == 0 {
            self.draft.add(area, bytes, item.size, item.alignment)
        } else {
            // Only the section's start was aligned; what follows it keeps its distance.
            let filler = vec![0; usize::try_from(skew).unwrap_or(0)];
            self.draft.add(area, &filler, skew, item.alignment);
            self.draft.add(area, bytes, item.size, 1)
        };
        self.spots.insert((unit, id), spot);
        self.queue.push((unit, id));
        self.refuse_unmovable(unit, item);
        spot
    }

    fn refuse_unmovable(&mut self, unit: usize, item: &Item) {
        let function = item.name.clone();
        if item.has_unsupported_frames {
            self.refusals.push(Refusal::ExceptionTable { function });
        } else if item.kind == Kind::Ifunc {
            self.refusals.push(Refusal::Resolver { function });
        } else if item.kind == Kind::Tls {
            let source_file = self.linked[unit].comparison.fixed.source.clone();
            self.refusals.push(Refusal::ThreadLocal {
                name: function,
                source_file,
            });
        }
    }

    pub(super) fn item(&self, unit: usize, id: ItemId) -> Option<&'a Item> {
        self.linked.get(unit)?.comparison.fixed.item(id)
    }
}
