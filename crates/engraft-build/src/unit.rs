//! A compiled object, seen as items that refer to each other.
//!
//! An item is what a linker could move on its own: a function, a variable, a string, a constant, a jump table.
//! Relocations of the file name symbols or whole sections; here each one refers to an item and an offset in it,
//! or to an undefined symbol.

mod code;
mod frames;
mod parse;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use object::elf;

pub(crate) use frames::{FUNCTION as FRAME_FUNCTION, Frame, ID as FRAME_ID, SIZE as FRAME_SIZE};
pub use parse::ObjectError;

/// Index of an item in its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ItemId(pub(crate) usize);

/// One object file.
#[derive(Debug)]
pub(crate) struct Unit {
    /// The source file, as the command line names it.
    pub(crate) source: PathBuf,
    pub(crate) items: Vec<Item>,
    /// Items by the names of all their symbols.
    pub(crate) names: HashMap<String, ItemId>,
    /// Call frame information of the functions.
    pub(crate) frames: Vec<Frame>,
}

/// What a linker could move on its own.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    /// Empty for strings, constants and jump tables.
    pub(crate) name: String,
    pub(crate) global: bool,
    pub(crate) kind: Kind,
    pub(crate) alignment: u64,
    /// Where it starts in its section: labels in it are numbered from there.
    pub(crate) section_offset: u64,
    pub(crate) bytes: Vec<u8>,
    /// Size in memory; more than `bytes` for zero-initialised data.
    pub(crate) size: u64,
    /// Sorted by place.
    pub(crate) relocations: Vec<Reloc>,
    /// Offsets that anything refers to, sorted: where parts of an unnamed item may start.
    pub(crate) labels: Vec<u64>,
    /// Its frames are unwound in a way that an image cannot bring.
    pub(crate) has_strange_frames: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Function,
    /// A function that chooses another one while the loader relocates (`STT_GNU_IFUNC`).
    Ifunc,
    ReadOnly,
    /// Element of a mergeable section: a string or constant without identity.
    Constant,
    Data,
    Bss,
    Tls,
    /// Pointers to constructors and destructors, which the loader calls.
    LoaderCalls,
}

/// A relocation of an item.
#[derive(Debug, Clone)]
pub(crate) struct Reloc {
    /// Offset in the item.
    pub(crate) place: u64,
    /// `R_X86_64_*`.
    pub(crate) r_type: u32,
    pub(crate) referent: Referent,
    /// Offset in the referent that is meant, the distance of a PC-relative field from the end of
    /// its instruction taken out.
    pub(crate) offset: i64,
    /// That distance: 4 where nothing follows the field. 0 for fields that are not PC-relative.
    pub(crate) tail: u8,
    pub(crate) flow: Flow,
    /// It names the referent by a symbol that no other object sees, as GCC does in recursive functions of libraries
    /// (`.localalias`): it means this very function, and never a PLT entry.
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

impl Reloc {
    /// What decides the value of its field. Whichever variable it names, [`elf::R_X86_64_TLSLD`] means the module.
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

impl Item {
    /// The name without the numbers and words that a compiler appends.
    pub(crate) fn base_name(&self) -> &str {
        self.name.split('.').next().unwrap_or_default()
    }

    /// The unlikely part of a function, never entered but from it.
    pub(crate) fn is_cold_part(&self) -> bool {
        self.kind == Kind::Function && self.name.split('.').skip(1).any(|word| word == "cold")
    }

    /// The function that a cold part belongs to.
    pub(crate) fn cold_parent_name(&self) -> Option<&str> {
        let at = self.name.find(".cold")?;
        self.name.get(..at)
    }

    /// A function that the compiler made from another one: `.part.0`, `.isra.0`, `.constprop.0`.
    pub(crate) fn is_clone(&self) -> bool {
        self.kind == Kind::Function && self.name.contains('.') && !self.is_cold_part()
    }

    /// Data whose name carries a number: a variable local to a function, or made by the compiler.
    pub(crate) fn is_numbered(&self) -> bool {
        self.kind != Kind::Function && self.name.contains('.')
    }

    /// True where only the content counts: strings, constants, jump tables, `CSWTCH.1`, `__func__.2`.
    pub(crate) fn is_content(&self) -> bool {
        let read_only = matches!(self.kind, Kind::ReadOnly | Kind::Constant);
        read_only && (self.name.is_empty() || self.is_numbered())
    }

    /// The bytes that a reference to `offset` may mean: all of a named item; of an unnamed one, whatever
    /// lies before the next label.
    pub(crate) fn extent(&self, offset: i64) -> std::ops::Range<u64> {
        if !self.name.is_empty() || self.kind == Kind::Constant {
            return 0..self.size;
        }
        let start = u64::try_from(offset).unwrap_or(0).min(self.size);
        let end = self
            .labels
            .iter()
            .copied()
            .find(|&label| label > start)
            .unwrap_or(self.size);
        start..end
    }

    pub(crate) fn relocations_in(&self, range: std::ops::Range<u64>) -> &[Reloc] {
        let start = self
            .relocations
            .partition_point(|reloc| reloc.place < range.start);
        let end = self
            .relocations
            .partition_point(|reloc| reloc.place < range.end);
        self.relocations.get(start..end).unwrap_or_default()
    }

    pub(crate) fn bytes_in(&self, range: std::ops::Range<u64>) -> &[u8] {
        let start = usize::try_from(range.start).unwrap_or(usize::MAX);
        let end = usize::try_from(range.end)
            .unwrap_or(usize::MAX)
            .min(self.bytes.len());
        self.bytes.get(start..end).unwrap_or_default()
    }
}
