//! An item: what a linker could move on its own.

use super::reloc::Reloc;

/// Index of an item in its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ItemId(pub(crate) usize);

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
    pub(crate) has_unsupported_frames: bool,
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

    /// True where only the content counts: strings, constants, jump tables, `CSWTCH.1`,
    /// `__func__.2`.
    pub(crate) fn is_content(&self) -> bool {
        let read_only = matches!(self.kind, Kind::ReadOnly | Kind::Constant);
        read_only && (self.name.is_empty() || self.is_numbered())
    }

    /// The bytes that a reference to `offset` may mean: all of a named item; of an unnamed one,
    /// whatever lies before the next label.
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
