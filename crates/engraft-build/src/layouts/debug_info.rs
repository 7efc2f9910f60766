//! The debugging information of an object, as a tree of entries.

use std::collections::HashMap;

use gimli::{
    AttributeValue, DebuggingInformationEntry, DwAt, DwTag, Dwarf, DwarfSections, EndianSlice,
    LittleEndian, Unit, constants,
};
use object::read::elf::ElfFile64;
use object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, RelocationFlags, RelocationTarget, elf,
};

type Slice<'d> = EndianSlice<'d, LittleEndian>;
type Elf<'d> = ElfFile64<'d, object::LittleEndian>;

/// Why there is nothing to be seen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DebugInfoError {
    #[error(transparent)]
    Elf(#[from] object::Error),
    #[error(transparent)]
    Dwarf(#[from] gimli::Error),
}

/// An entry (DIE), with what layouts depend on.
#[derive(Debug)]
pub(crate) struct DebugEntry {
    pub(crate) tag: DwTag,
    pub(crate) parent: Option<usize>,
    pub(crate) children: Vec<usize>,
    pub(crate) name: String,
    pub(crate) linkage_name: String,
    /// What `DW_AT_type` refers to.
    pub(crate) type_of: Option<usize>,
    /// What it is an instance or the definition of.
    pub(crate) origin: Option<usize>,
    /// In bytes.
    pub(crate) size: Option<u64>,
    /// In bytes, in a structure.
    pub(crate) offset: Option<u64>,
    /// In bits, in a structure.
    pub(crate) bit_offset: Option<u64>,
    pub(crate) bit_size: Option<u64>,
    pub(crate) encoding: Option<u64>,
    /// Of an enumerator.
    pub(crate) value: Option<i64>,
    /// How many elements an array has.
    pub(crate) count: Option<u64>,
    pub(crate) is_declaration: bool,
    pub(crate) is_external: bool,
    /// A variable with one fixed address.
    pub(crate) has_address: bool,
    /// Where it is declared.
    pub(crate) file: String,
    pub(crate) line: u64,
}

/// All entries of an object.
#[derive(Debug, Default)]
pub(crate) struct DebugInfo {
    pub(crate) entries: Vec<DebugEntry>,
}

impl DebugInfo {
    /// Reads an object file.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, DebugInfoError> {
        let elf = Elf::parse(bytes)?;
        let sections = DwarfSections::load(|id| relocated(&elf, id.name()))?;
        let dwarf = sections.borrow(|section: &Vec<u8>| EndianSlice::new(section, LittleEndian));
        let mut info = Self::default();
        let mut headers = dwarf.units();
        while let Some(header) = headers.next()? {
            let unit = dwarf.unit(header)?;
            UnitReader::new(&dwarf, &unit).read(&mut info)?;
        }
        Ok(info)
    }

    pub(crate) fn entry(&self, index: usize) -> Option<&DebugEntry> {
        self.entries.get(index)
    }

    pub(crate) fn children(&self, index: usize) -> impl Iterator<Item = (usize, &DebugEntry)> {
        let children = self.entry(index).map(|entry| entry.children.as_slice());
        children
            .unwrap_or_default()
            .iter()
            .filter_map(|&child| Some((child, self.entry(child)?)))
    }

    /// The type of an entry, or of what it is an instance of.
    pub(crate) fn type_of(&self, index: usize) -> Option<usize> {
        let entry = self.entry(index)?;
        entry.type_of.or_else(|| self.entry(entry.origin?)?.type_of)
    }
}

/// A section with its relocations applied, as if it were linked to address 0.
fn relocated(elf: &Elf<'_>, name: &str) -> Result<Vec<u8>, object::Error> {
    let Some(section) = elf.section_by_name(name) else {
        return Ok(Vec::new());
    };
    let mut data = section.uncompressed_data()?.into_owned();
    for (place, relocation) in section.relocations() {
        let (RelocationFlags::Elf { r_type }, RelocationTarget::Symbol(symbol)) =
            (relocation.flags(), relocation.target())
        else {
            continue;
        };
        let width = match r_type {
            elf::R_X86_64_64 => 8,
            elf::R_X86_64_32 | elf::R_X86_64_32S => 4,
            _ => continue,
        };
        let value = elf.symbol_by_index(symbol)?.address();
        let value = value.wrapping_add_signed(relocation.addend()).to_le_bytes();
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        let field = data.get_mut(place..place.saturating_add(width));
        if let (Some(field), Some(value)) = (field, value.get(..width)) {
            field.copy_from_slice(value);
        }
    }
    Ok(data)
}

/// An expression that is an address.
fn is_address(location: Option<AttributeValue<Slice<'_>>>) -> bool {
    let Some(AttributeValue::Exprloc(expression)) = location else {
        return false;
    };
    let first = expression.0.first().copied().map(gimli::DwOp);
    matches!(first, Some(constants::DW_OP_addr | constants::DW_OP_addrx))
}

/// Reads one compile unit.
struct UnitReader<'r, 'd> {
    dwarf: &'r Dwarf<Slice<'d>>,
    unit: &'r Unit<Slice<'d>>,
    /// Index of an entry by its offset in the unit.
    indices: HashMap<usize, usize>,
    /// References that are offsets yet: entry, type, origin.
    references: Vec<(usize, Option<usize>, Option<usize>)>,
}

impl<'r, 'd> UnitReader<'r, 'd> {
    fn new(dwarf: &'r Dwarf<Slice<'d>>, unit: &'r Unit<Slice<'d>>) -> Self {
        Self {
            dwarf,
            unit,
            indices: HashMap::new(),
            references: Vec::new(),
        }
    }

    fn read(mut self, info: &mut DebugInfo) -> Result<(), DebugInfoError> {
        let mut cursor = self.unit.entries();
        let mut path: Vec<(isize, usize)> = Vec::new();
        while let Some(found) = cursor.next_dfs()? {
            let index = info.entries.len();
            let depth = found.depth();
            while path.last().is_some_and(|&(other, _)| other >= depth) {
                path.pop();
            }
            let parent = path.last().map(|&(_, parent)| parent);
            path.push((depth, index));
            self.indices.insert(found.offset().0, index);
            let mut entry = self.entry(found, index);
            entry.parent = parent;
            info.entries.push(entry);
            if let Some(parent) = parent.and_then(|parent| info.entries.get_mut(parent)) {
                parent.children.push(index);
            }
        }
        for (index, type_of, origin) in &self.references {
            let resolve = |offset: &Option<usize>| {
                offset.and_then(|offset| self.indices.get(&offset).copied())
            };
            if let Some(entry) = info.entries.get_mut(*index) {
                (entry.type_of, entry.origin) = (resolve(type_of), resolve(origin));
            }
        }
        Ok(())
    }

    fn entry(&mut self, found: &DebuggingInformationEntry<Slice<'d>>, index: usize) -> DebugEntry {
        let number = |name: DwAt| found.attr(name).and_then(|attr| attr.udata_value());
        let reference = |name: DwAt| match found.attr_value(name) {
            Some(AttributeValue::UnitRef(offset)) => Some(offset.0),
            _ => None,
        };
        let origin = reference(constants::DW_AT_abstract_origin)
            .or_else(|| reference(constants::DW_AT_specification));
        self.references
            .push((index, reference(constants::DW_AT_type), origin));
        let flag = |name: DwAt| matches!(found.attr_value(name), Some(AttributeValue::Flag(true)));
        let bound = number(constants::DW_AT_upper_bound).and_then(|bound| bound.checked_add(1));
        DebugEntry {
            tag: found.tag(),
            name: self.text(found, constants::DW_AT_name),
            linkage_name: self.text(found, constants::DW_AT_linkage_name),
            size: number(constants::DW_AT_byte_size),
            offset: number(constants::DW_AT_data_member_location),
            bit_offset: number(constants::DW_AT_data_bit_offset),
            bit_size: number(constants::DW_AT_bit_size),
            encoding: match found.attr_value(constants::DW_AT_encoding) {
                Some(AttributeValue::Encoding(encoding)) => Some(encoding.0.into()),
                _ => None,
            },
            value: found
                .attr(constants::DW_AT_const_value)
                .and_then(|attr| attr.sdata_value()),
            count: number(constants::DW_AT_count).or(bound),
            is_declaration: flag(constants::DW_AT_declaration),
            is_external: flag(constants::DW_AT_external),
            has_address: is_address(found.attr_value(constants::DW_AT_location)),
            file: self.file(found).unwrap_or_default(),
            line: number(constants::DW_AT_decl_line).unwrap_or_default(),
            parent: None,
            children: Vec::new(),
            type_of: None,
            origin: None,
        }
    }

    fn text(&self, found: &DebuggingInformationEntry<Slice<'d>>, name: DwAt) -> String {
        let value = found.attr_value(name);
        let text = value.and_then(|value| self.dwarf.attr_string(self.unit, value).ok());
        text.map(|text| text.to_string_lossy().into_owned())
            .unwrap_or_default()
    }

    fn file(&self, found: &DebuggingInformationEntry<Slice<'d>>) -> Option<String> {
        let index = match found.attr_value(constants::DW_AT_decl_file)? {
            AttributeValue::FileIndex(index) => index,
            other => other.udata_value()?,
        };
        let file = self.unit.line_program.as_ref()?.header().file(index)?;
        let name = self.dwarf.attr_string(self.unit, file.path_name()).ok()?;
        Some(name.to_string_lossy().into_owned())
    }
}
