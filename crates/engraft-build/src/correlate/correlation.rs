//! What is known of one object in one binary.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;

use super::matching::{Class, Match, fixed_prefix, match_function};
use crate::binary::{Binary, Symbol};
use crate::refusal::Mismatch;
use crate::unit::{Item, ItemId, Kind, Referent, Unit};

/// What is known of an object in a binary.
#[derive(Debug, Default)]
pub(crate) struct Correlation {
    /// Functions whose code is in the binary, cold parts included.
    pub(crate) located: BTreeMap<ItemId, Match>,
    /// Functions that the binary has by name, but with other code.
    pub(crate) differing: BTreeMap<ItemId, Mismatch>,
    /// Functions that the binary may have more than once.
    pub(crate) ambiguous: BTreeMap<ItemId, Vec<u64>>,
    bindings: HashMap<(Referent, Class), u64>,
}

/// Bytes of a function's start that tell enough to search for it without a name.
const SEARCH_PREFIX: usize = 2;

impl Correlation {
    /// Looks for every function of `unit`; for those in `wanted` and their cold parts without the
    /// help of names, if need be.
    pub(crate) fn new(unit: &Unit, binary: &Binary, wanted: &BTreeSet<ItemId>) -> Self {
        let mut correlator = Correlator {
            unit,
            binary,
            found: Self::default(),
            queue: Vec::new(),
        };
        for (id, item) in unit.functions() {
            correlator.locate_by_name(id, item);
        }
        correlator.propagate();
        correlator.search(wanted.iter().copied());
        if wanted
            .iter()
            .any(|id| !correlator.found.located.contains_key(id))
        {
            // Two copies of a function may be told apart by the functions that call them.
            correlator.search(unit.functions().map(|(id, _)| id));
        }
        correlator.found
    }

    /// What the binary's code says that a reference of that class resolves to.
    pub(crate) fn binding(&self, referent: &Referent, class: Class) -> Option<u64> {
        self.bindings.get(&(referent.clone(), class)).copied()
    }

    /// True if there is any reference of that class.
    pub(crate) fn has(&self, class: Class) -> bool {
        self.bindings.keys().any(|&(_, found)| found == class)
    }

    /// How much of the object's code is in the binary, in bytes, and how much there is.
    pub(crate) fn coverage(&self, unit: &Unit) -> (u64, u64) {
        let total = unit.functions().map(|(_, item)| item.size).sum();
        let located = self
            .located
            .keys()
            .filter_map(|&id| unit.item(id))
            .map(|item| item.size);
        (located.sum(), total)
    }
}

struct Correlator<'a> {
    unit: &'a Unit,
    binary: &'a Binary,
    found: Correlation,
    /// Items whose address became known and that were not looked at there.
    queue: Vec<(ItemId, u64)>,
}

impl Correlator<'_> {
    fn locate_by_name(&mut self, id: ItemId, item: &Item) {
        let names = self.unit.names.iter().filter(|&(_, &other)| other == id);
        let mut addresses: Vec<u64> = names
            .flat_map(|(name, _)| candidates(self.binary.symbols(name), item, self.unit))
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        self.try_addresses(id, &addresses, true);
    }

    /// Accepts the one address of several at which the function's code is.
    fn try_addresses(&mut self, id: ItemId, addresses: &[u64], by_name: bool) {
        let mut matches = Vec::new();
        let mut mismatch = None;
        for &address in addresses {
            match match_function(self.unit, id, self.binary, address) {
                Ok(found) if self.agrees(id, &found) => matches.push(found),
                Ok(_) => {}
                Err(error) => mismatch = mismatch.or(Some(error)),
            }
        }
        if matches.len() > 1 {
            let addresses = matches.iter().map(|found| found.address).collect();
            self.found.ambiguous.insert(id, addresses);
        } else if let Some(found) = matches.pop() {
            self.accept(id, found);
        } else if let Some(mismatch) = mismatch.filter(|_| by_name) {
            self.found.differing.insert(id, mismatch);
        }
    }

    /// False if what the match says contradicts what is known.
    fn agrees(&self, id: ItemId, found: &Match) -> bool {
        let bindings = &self.found.bindings;
        let is_here = |class| {
            let own = self.found.binding(&Referent::Item(id), class);
            own.is_none_or(|address| address == found.address)
        };
        // A call of a global function may go through the PLT.
        let global = self.unit.item(id).is_some_and(|item| item.global);
        is_here(Class::LocalCode)
            && (global || is_here(Class::Code))
            && found
                .bindings
                .iter()
                .all(|(key, value)| bindings.get(key).is_none_or(|known| known == value))
    }

    fn accept(&mut self, id: ItemId, found: Match) {
        self.found.ambiguous.remove(&id);
        self.found.differing.remove(&id);
        for ((referent, class), value) in &found.bindings {
            self.bind(referent, *class, *value);
        }
        self.found.located.insert(id, found);
    }

    fn bind(&mut self, referent: &Referent, class: Class, value: u64) {
        let fresh = self
            .found
            .bindings
            .insert((referent.clone(), class), value)
            .is_none();
        if let (true, Referent::Item(id), Class::Code | Class::LocalCode | Class::Address) =
            (fresh, referent, class)
        {
            self.queue.push((*id, value));
        }
    }

    fn propagate(&mut self) {
        while let Some((id, address)) = self.queue.pop() {
            let Some(item) = self.unit.item(id) else {
                continue;
            };
            match item.kind {
                Kind::Function if !self.found.located.contains_key(&id) => {
                    self.try_addresses(id, &[address], false);
                }
                Kind::ReadOnly | Kind::Data if !item.is_content() => self.pointers(item, address),
                _ => {}
            }
        }
    }

    /// The pointers in a variable whose address is known.
    fn pointers(&mut self, item: &Item, address: u64) {
        for reloc in &item.relocations {
            let is_function = matches!(reloc.referent, Referent::Item(id)
                if self.unit.item(id).is_some_and(|target| target.kind == Kind::Function));
            if reloc.r_type != object::elf::R_X86_64_64 || !is_function || reloc.offset != 0 {
                continue;
            }
            if let Some(target) = address
                .checked_add(reloc.place)
                .and_then(|p| self.binary.pointer(p))
                && target != 0
            {
                self.bind(&reloc.referent, Class::Address, target);
            }
        }
    }

    /// Looks for the code of functions everywhere.
    fn search(&mut self, ids: impl Iterator<Item = ItemId>) {
        for id in ids {
            self.search_one(id);
            self.propagate();
        }
    }

    fn search_one(&mut self, id: ItemId) {
        let Some(item) = self.unit.item(id) else {
            return;
        };
        let has_name = self.found.differing.contains_key(&id) || self.binary.has_symtab;
        if self.found.located.contains_key(&id) || has_name {
            return;
        }
        let prefix = fixed_prefix(item);
        let Some((&first, rest)) = prefix.split_first() else {
            return;
        };
        if prefix.len() < SEARCH_PREFIX {
            return;
        }
        let mut addresses = Vec::new();
        for (address, code) in self.binary.executable() {
            for (offset, byte) in (0u64..).zip(code) {
                let here = usize::try_from(offset)
                    .ok()
                    .and_then(|at| code.get(at + 1..));
                if *byte == first && here.is_some_and(|here| here.starts_with(rest)) {
                    addresses.push(address + offset);
                }
            }
        }
        self.try_addresses(id, &addresses, false);
    }
}

/// Addresses of the symbols that may be an item.
fn candidates(symbols: &[Symbol], item: &Item, unit: &Unit) -> Vec<u64> {
    let file = unit.source.file_name().and_then(OsStr::to_str);
    let is_file = |symbol: &&Symbol| symbol.local && symbol.file.as_deref() == file;
    let addresses = |matching: &dyn Fn(&&Symbol) -> bool| -> Vec<u64> {
        symbols
            .iter()
            .filter(matching)
            .map(|symbol| symbol.address.0)
            .collect()
    };
    // A hidden global is local in a linked file.
    let best = if item.global {
        addresses(&|symbol| !symbol.local)
    } else {
        addresses(&is_file)
    };
    if best.is_empty() {
        addresses(&|symbol| symbol.local || item.global)
    } else {
        best
    }
}

/// The addresses that an item may have, by its name and source file.
pub(crate) fn addresses_by_name(unit: &Unit, id: ItemId, binary: &Binary) -> Vec<u64> {
    let Some(item) = unit.item(id) else {
        return Vec::new();
    };
    let mut addresses = candidates(binary.symbols(&item.name), item, unit);
    addresses.dedup();
    addresses
}

/// The one address of a variable by its name and source file, where code does not tell.
pub(crate) fn variable_by_name(unit: &Unit, id: ItemId, binary: &Binary) -> Option<u64> {
    let addresses = addresses_by_name(unit, id, binary);
    match addresses.as_slice() {
        [address] => Some(*address),
        _ => None,
    }
}
