//! New code and what it needs, laid out for one binary.
//!
//! Starting from the changed functions, everything that new code refers to is either named in the old binary
//! or taken along: new functions and variables, strings, constants, jump tables.

mod caller;
mod references;
mod slots;
mod thread_local;
mod unwind;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use engraft_patch::{Function, ImageAddress, LinkAddress, Object, OldPart, Segment, Trampoline};

use crate::binary::Binary;
use crate::compare::{Comparison, cold_parts};
use crate::correlate::Correlation;
use crate::layout::{Area, BSS_ALIGNMENT, Layout, Spot};
use crate::padding;
use crate::refusal::Refusal;
use crate::site;
use crate::trampoline::MovedCode;
use crate::unit::{Item, ItemId, Kind};

use caller::Callers;
use references::Extent;
pub(crate) use references::object_target;

/// A compiled object whose original is in the binary.
pub(crate) struct Placed<'a> {
    pub(crate) comparison: &'a Comparison,
    pub(crate) correlation: Correlation,
    /// Read-only data of the original whose fixed content comes with the new code.
    pub(crate) shipped: BTreeSet<ItemId>,
    /// Changed functions that another object brings: the linker kept one of several copies.
    pub(crate) elsewhere: BTreeSet<ItemId>,
}

impl<'a> Placed<'a> {
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

/// What GOT slots of the image and stubs are for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum SlotKey {
    Name(String),
    Item(usize, ItemId),
    ThreadLocal(u64),
    /// A function that looks at its caller: its thunk, or a slot with the thunk's address.
    Caller(String),
}

struct Builder<'a> {
    binary: &'a Binary,
    placed: &'a [Placed<'a>],
    layout: Layout,
    /// Items of fixed objects that are in the image.
    spots: HashMap<(usize, ItemId), Spot>,
    /// Those whose references are still to be looked at.
    queue: Vec<(usize, ItemId)>,
    slots: HashMap<SlotKey, Spot>,
    stubs: HashMap<SlotKey, Spot>,
    /// Functions and variables that fixed objects bring, by name: one object's may be used in another.
    new_globals: HashMap<String, (usize, ItemId)>,
    /// Where the binary has global functions of the objects.
    old_globals: HashMap<String, u64>,
    callers: Callers,
    /// Where the functions are in the binary that get new code.
    replaced: Vec<Range<u64>>,
    escapes: bool,
    refusals: Vec<Refusal>,
}

/// Builds the image of one binary from the objects that are in it.
pub(crate) fn build(binary: &Binary, placed: &[Placed<'_>]) -> Result<Object, Vec<Refusal>> {
    let mut builder = Builder::new(binary, placed);
    let mut functions = Vec::new();
    for (unit, object) in placed.iter().enumerate() {
        let removed = owners_of_removed(object);
        for original in object.changed() {
            match builder.function(unit, original, &removed) {
                Ok(changed) => functions.push(changed),
                Err(refusal) => builder.refusals.push(refusal),
            }
        }
    }
    builder.take_along();
    let mut old_code = Vec::new();
    let functions = functions.into_iter();
    let functions = functions.map(|changed| changed.finish(&mut builder, &mut old_code));
    let functions = functions.collect();
    let unwind = builder.unwind(&old_code);
    // What cleans up may be the fix's own.
    builder.take_along();
    builder.finish_thunks();
    if !builder.refusals.is_empty() {
        builder.refusals.dedup();
        return Err(builder.refusals);
    }
    let image = builder.layout.finish(unwind, builder.escapes);
    let (build_id, file_name) = (binary.build_id.clone(), binary.file_name());
    Ok(Object {
        build_id,
        file_name,
        functions,
        image,
    })
}

impl<'a> Builder<'a> {
    fn new(binary: &'a Binary, placed: &'a [Placed<'a>]) -> Self {
        let mut builder = Self {
            binary,
            placed,
            layout: Layout::default(),
            spots: HashMap::new(),
            queue: Vec::new(),
            slots: HashMap::new(),
            stubs: HashMap::new(),
            new_globals: HashMap::new(),
            old_globals: HashMap::new(),
            callers: Callers::default(),
            replaced: Vec::new(),
            escapes: false,
            refusals: Vec::new(),
        };
        for (unit, object) in placed.iter().enumerate() {
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

    /// A changed function: its old parts, and its new code put into the image.
    fn function(
        &mut self,
        unit: usize,
        original: ItemId,
        removed: &BTreeMap<ItemId, ItemId>,
    ) -> Result<Changed, Refusal> {
        let Placed {
            comparison,
            correlation,
            ..
        } = &self.placed[unit];
        let name = item_name(&comparison.original.items, original);
        let not_found = |function: String| Refusal::FunctionNotInBinary {
            function,
            source_file: comparison.original.source.clone(),
            binary: self.binary.file_name(),
        };
        let cold = cold_parts(&comparison.original);
        let mut ids = vec![original];
        let gone = removed
            .iter()
            .filter(|&(_, &owner)| owner == original)
            .map(|(&id, _)| id);
        ids.extend(gone.filter(|id| correlation.located.contains_key(id)));
        let colds: Vec<_> = ids
            .iter()
            .filter_map(|id| cold.get(id))
            .flatten()
            .copied()
            .collect();
        ids.extend(colds);
        let mut parts = Vec::new();
        for id in ids {
            let found = correlation.located.get(&id);
            let code = found.and_then(|found| self.binary.bytes(found.address, found.size));
            let (Some(found), Some(code)) = (found, code) else {
                return Err(not_found(item_name(&comparison.original.items, id)));
            };
            parts.push(OldPart {
                address: LinkAddress(found.address),
                code: code.to_vec(),
            });
        }
        if let Some(entry) = parts.first_mut() {
            padding::extend(self.binary, entry);
        }
        let site = site::check(&name, &parts)?;
        let ranges = parts.iter();
        let ranges = ranges.map(|part| part.address.0..part.address.0 + part.code.len() as u64);
        self.replaced.extend(ranges);
        let entry = parts.first().ok_or_else(|| not_found(name.clone()))?;
        let moved = MovedCode::new(&name, entry, site)?;
        let fixed = comparison
            .pairs
            .fixed(original)
            .ok_or_else(|| not_found(name.clone()))?;
        let new_size = comparison.fixed.item(fixed).map_or(0, |item| item.size);
        let entry = self.place(unit, fixed);
        let new_entry = ImageAddress {
            segment: Segment::Text,
            offset: entry.offset,
        };
        Ok(Changed {
            unit,
            original,
            name,
            parts,
            new_entry,
            new_size,
            moved,
        })
    }

    /// Follows the references of everything in the image until nothing new comes.
    fn take_along(&mut self) {
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

    /// Where an item of a fixed object is in the image; it is put there if it is not yet.
    fn place(&mut self, unit: usize, id: ItemId) -> Spot {
        if let Some(&spot) = self.spots.get(&(unit, id)) {
            return spot;
        }
        let Some(item) = self.item(unit, id) else {
            return self.layout.add(Area::Data, &[], 0, 1);
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
            self.layout.add(area, bytes, item.size, item.alignment)
        } else {
            // Only the section's start was aligned; what follows it keeps its distance.
            let filler = vec![0; usize::try_from(skew).unwrap_or(0)];
            self.layout.add(area, &filler, skew, item.alignment);
            self.layout.add(area, bytes, item.size, 1)
        };
        self.spots.insert((unit, id), spot);
        self.queue.push((unit, id));
        self.refuse_unmovable(unit, item);
        spot
    }

    /// Puts the first instructions of an old function into the image.
    fn trampoline(&mut self, function: &str, moved: &MovedCode) -> (Spot, u64) {
        let mut thunks = HashMap::new();
        for called in moved.called() {
            match self.thunk_of_moved(function, called) {
                Ok(Some(thunk)) => drop(thunks.insert(called, thunk)),
                Ok(None) => {}
                Err(refusal) => self.refusals.push(refusal),
            }
        }
        moved.place(&mut self.layout, &thunks)
    }

    fn refuse_unmovable(&mut self, unit: usize, item: &Item) {
        let function = item.name.clone();
        if item.has_strange_frames {
            self.refusals.push(Refusal::ExceptionTable { function });
        } else if item.kind == Kind::Ifunc {
            self.refusals.push(Refusal::Resolver { function });
        } else if item.kind == Kind::Tls {
            let source_file = self.placed[unit].comparison.fixed.source.clone();
            self.refusals.push(Refusal::ThreadLocal {
                name: function,
                source_file,
            });
        }
    }

    fn item(&self, unit: usize, id: ItemId) -> Option<&'a Item> {
        self.placed.get(unit)?.comparison.fixed.item(id)
    }
}

/// A changed function whose new code is in the image.
struct Changed {
    unit: usize,
    original: ItemId,
    name: String,
    parts: Vec<OldPart>,
    new_entry: ImageAddress,
    new_size: u64,
    moved: MovedCode,
}

impl Changed {
    /// Brings its trampoline, which goes behind all new code.
    fn finish(self, builder: &mut Builder<'_>, old_code: &mut Vec<OldCode>) -> Function {
        let (spot, size) = builder.trampoline(&self.name, &self.moved);
        old_code.push(OldCode {
            unit: self.unit,
            function: self.original,
            name: self.name.clone(),
            spot,
            offset: self.moved.start(),
            end: self.moved.end(),
            size: self.moved.covered(),
            entry: self
                .parts
                .first()
                .map_or(LinkAddress(0), |part| part.address),
        });
        Function {
            name: self.name,
            parts: self.parts,
            new_entry: self.new_entry,
            new_size: self.new_size,
            trampoline: Trampoline {
                entry: builder.layout.address(spot),
                size,
            },
        }
    }
}

/// The first instructions of an old function, in a trampoline.
struct OldCode {
    unit: usize,
    function: ItemId,
    name: String,
    /// Where they are,
    spot: Spot,
    /// where they were, from the function's entry,
    offset: u64,
    /// behind which offset nothing of the function matters to them,
    end: u64,
    /// and how many bytes, with the jump to the rest.
    size: u64,
    /// That entry.
    entry: LinkAddress,
}

/// Removed functions may still be running: each belongs to a changed function that used it, directly or through
/// another removed one.
fn owners_of_removed(object: &Placed<'_>) -> BTreeMap<ItemId, ItemId> {
    let comparison = object.comparison;
    let original = &comparison.original;
    let mut owners = BTreeMap::new();
    let mut wanted: Vec<(ItemId, ItemId)> = comparison.changed.iter().map(|&id| (id, id)).collect();
    let cold = cold_parts(original);
    while let Some((user, owner)) = wanted.pop() {
        let parts = cold.get(&user).into_iter().flatten().chain([&user]);
        for item in parts.filter_map(|&id| original.item(id)) {
            for id in original.referred(item) {
                if comparison.removed.contains(&id) && !owners.contains_key(&id) {
                    owners.insert(id, owner);
                    wanted.push((id, owner));
                }
            }
        }
    }
    owners
}

fn item_name(items: &[Item], id: ItemId) -> String {
    items
        .get(id.0)
        .map(|item| item.name.clone())
        .unwrap_or_default()
}
