//! Object file → unit.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use object::read::elf::ElfFile64;
use object::{
    LittleEndian, Object as _, ObjectSection as _, ObjectSymbol as _, RelocationFlags,
    RelocationTarget, SectionFlags, SectionIndex, SymbolIndex, SymbolSection, elf,
};

use super::code::{InstructionSpan, add_references_to_itself, operand, spans};
use super::frame_descriptions::frames;
use super::item::{Item, ItemId, Kind};
use super::items::Unit;
use super::reloc::{Flow, Referent, Reloc};

/// Why an object of the build cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ObjectFileError {
    /// It cannot be read.
    #[error("cannot read the object compiled from {source_file}: {source}")]
    Unreadable {
        /// What it was compiled from.
        source_file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no ELF64 file, or a broken one.
    #[error("the object compiled from {source_file} is no usable x86-64 ELF file: {reason}")]
    Malformed {
        /// What it was compiled from.
        source_file: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

type Elf<'a> = ElfFile64<'a, LittleEndian>;

impl Unit {
    /// Reads the object at `path`, compiled from `source`.
    pub(crate) fn read(path: &Path, source: &Path) -> Result<Self, ObjectFileError> {
        let bytes = std::fs::read(path).map_err(|error| ObjectFileError::Unreadable {
            source_file: source.to_owned(),
            source: error,
        })?;
        parse(&bytes, source).map_err(|error| ObjectFileError::Malformed {
            source_file: source.to_owned(),
            reason: error.to_string(),
        })
    }
}

fn parse(bytes: &[u8], source: &Path) -> Result<Unit, object::Error> {
    let elf = Elf::parse(bytes)?;
    let mut parser = Parser {
        elf: &elf,
        sections: HashMap::new(),
        symbols: HashMap::new(),
        spans: HashMap::new(),
        unit: Unit {
            source: source.to_owned(),
            items: Vec::new(),
            names: HashMap::new(),
            frames: Vec::new(),
        },
    };
    parser.cut_sections()?;
    parser.common_symbols()?;
    parser.connect()?;
    let frames = frames(&elf, &|symbol, offset| parser.referent(symbol, offset))?;
    parser.unit.frames = frames.known;
    for function in frames.others {
        if let Some(item) = parser.unit.items.get_mut(function.0) {
            item.has_unsupported_frames = true;
        }
    }
    Ok(parser.unit)
}

/// A section cut into items, by where they start.
struct Cut {
    items: BTreeMap<u64, ItemId>,
}

struct Parser<'a, 'd> {
    elf: &'a Elf<'d>,
    sections: HashMap<SectionIndex, Cut>,
    /// Items that a named symbol starts.
    symbols: HashMap<SymbolIndex, ItemId>,
    /// The instructions of functions that have relocations.
    spans: HashMap<ItemId, Vec<InstructionSpan>>,
    unit: Unit,
}

/// A named symbol that starts an item.
struct Start {
    index: SymbolIndex,
    name: String,
    global: bool,
    size: u64,
    ifunc: bool,
}

impl Parser<'_, '_> {
    fn cut_sections(&mut self) -> Result<(), object::Error> {
        let mut starts: HashMap<SectionIndex, BTreeMap<u64, Vec<Start>>> = HashMap::new();
        for symbol in self.elf.symbols() {
            let name = symbol.name()?;
            let (SymbolSection::Section(section), false) =
                (symbol.section(), name.is_empty() || name.starts_with(".L"))
            else {
                continue;
            };
            let st_type = symbol.elf_symbol().st_type();
            if ![elf::STT_SECTION, elf::STT_FILE].contains(&st_type) {
                let ifunc = st_type == elf::STT_GNU_IFUNC;
                let (index, name) = (symbol.index(), name.to_owned());
                let (global, size) = (symbol.is_global(), symbol.size());
                let start = Start {
                    index,
                    name,
                    global,
                    size,
                    ifunc,
                };
                starts
                    .entry(section)
                    .or_default()
                    .entry(symbol.address())
                    .or_default()
                    .push(start);
            }
        }
        for section in self.elf.sections() {
            let named = starts.remove(&section.index()).unwrap_or_default();
            self.cut_section(&section, named)?;
        }
        Ok(())
    }

    fn cut_section(
        &mut self,
        section: &object::read::elf::ElfSection64<'_, '_, LittleEndian>,
        named: BTreeMap<u64, Vec<Start>>,
    ) -> Result<(), object::Error> {
        let SectionFlags::Elf { sh_flags, sh_type } = section.flags() else {
            return Ok(());
        };
        let name = section.name()?;
        if !sh_flags.contains(elf::SHF_ALLOC) || !is_program(sh_type, name) {
            return Ok(());
        }
        let data = section.data()?;
        let mut cut = Cut {
            items: BTreeMap::new(),
        };
        let mut add = |range: std::ops::Range<u64>, kind: Kind, starts: &[Start]| {
            let first = starts.iter().find(|start| start.global).or(starts.first());
            let item_name = first.map(|start| start.name.clone()).unwrap_or_default();
            let bounds = usize::try_from(range.start)
                .ok()
                .zip(usize::try_from(range.end).ok());
            let bytes = bounds
                .and_then(|(start, end)| data.get(start..end))
                .unwrap_or_default();
            let id = ItemId(self.unit.items.len());
            cut.items.insert(range.start, id);
            for start in starts {
                self.symbols.insert(start.index, id);
                self.unit.names.insert(start.name.clone(), id);
            }
            self.unit.items.push(Item {
                has_unsupported_frames: false,
                name: item_name,
                global: first.is_some_and(|start| start.global),
                kind: if starts.iter().any(|start| start.ifunc) {
                    Kind::Ifunc
                } else {
                    kind
                },
                alignment: section.align().max(1),
                section_offset: range.start,
                bytes: bytes.to_vec(),
                size: range.end - range.start,
                relocations: Vec::new(),
                labels: Vec::new(),
            });
        };
        let kind = section_kind(name, sh_type, sh_flags);
        if kind == Kind::Constant {
            for (start, end) in constants(data, sh_flags, section) {
                add(start..end, kind, &[]);
            }
        } else {
            for (range, starts) in ranges(section.size(), named) {
                add(range, kind, &starts);
            }
        }
        self.sections.insert(section.index(), cut);
        Ok(())
    }

    /// `-fcommon` variables have no section before they are linked.
    fn common_symbols(&mut self) -> Result<(), object::Error> {
        for symbol in self.elf.symbols().filter(|symbol| symbol.is_common()) {
            let name = symbol.name()?.to_owned();
            let id = ItemId(self.unit.items.len());
            self.symbols.insert(symbol.index(), id);
            self.unit.names.insert(name.clone(), id);
            self.unit.items.push(Item {
                name,
                global: true,
                kind: Kind::Bss,
                // st_value of a common symbol is its alignment.
                alignment: symbol.address().max(1),
                section_offset: 0,
                bytes: Vec::new(),
                size: symbol.size(),
                relocations: Vec::new(),
                labels: Vec::new(),
                has_unsupported_frames: false,
            });
        }
        Ok(())
    }

    fn connect(&mut self) -> Result<(), object::Error> {
        let elf = self.elf;
        for section in elf.sections() {
            let mut relocations: Vec<_> = section.relocations().collect();
            relocations.sort_by_key(|&(offset, _)| offset);
            for (offset, relocation) in relocations {
                let Some((id, start)) = self.covering(section.index(), offset) else {
                    continue;
                };
                let RelocationFlags::Elf { r_type } = relocation.flags() else {
                    continue;
                };
                let RelocationTarget::Symbol(symbol) = relocation.target() else {
                    continue;
                };
                let reloc = Reloc {
                    place: offset - start,
                    r_type,
                    // Refined below, when the instructions are known.
                    referent: Referent::Undefined {
                        name: String::new(),
                        weak: false,
                    },
                    offset: relocation.addend(),
                    tail: 0,
                    flow: Flow::Value,
                    is_local: false,
                };
                self.add(id, reloc, symbol)?;
            }
        }
        for (id, item) in (0..).map(ItemId).zip(&mut self.unit.items) {
            if item.kind == Kind::Function {
                add_references_to_itself(item, id);
            }
        }
        self.note_labels();
        Ok(())
    }

    fn add(
        &mut self,
        id: ItemId,
        mut reloc: Reloc,
        symbol: SymbolIndex,
    ) -> Result<(), object::Error> {
        if let Some(item) = self.unit.items.get(id.0)
            && item.kind == Kind::Function
        {
            let spans = self.spans.entry(id).or_insert_with(|| spans(&item.bytes));
            (reloc.tail, reloc.flow) = operand(spans, &reloc);
            reloc.offset = reloc.offset.saturating_add(i64::from(reloc.tail));
        }
        let symbol = self.elf.symbol_by_index(symbol)?;
        (reloc.referent, reloc.offset) = self.referent(&symbol, reloc.offset)?;
        reloc.is_local = symbol.is_local();
        if let Some(item) = self.unit.items.get_mut(id.0) {
            item.relocations.push(reloc);
        }
        Ok(())
    }

    fn referent(
        &self,
        symbol: &object::read::elf::ElfSymbol64<'_, '_, LittleEndian>,
        offset: i64,
    ) -> Result<(Referent, i64), object::Error> {
        if let Some(&id) = self.symbols.get(&symbol.index()) {
            return Ok((Referent::Item(id), offset));
        }
        if let Some(section) = symbol.section_index() {
            let value = i64::try_from(symbol.address()).unwrap_or_default();
            let absolute = value.saturating_add(offset);
            let wanted = u64::try_from(absolute).unwrap_or_default();
            if let Some((id, start)) = self.covering(section, wanted) {
                let start = i64::try_from(start).unwrap_or_default();
                return Ok((Referent::Item(id), absolute.saturating_sub(start)));
            }
        }
        let name = symbol.name()?.to_owned();
        Ok((
            Referent::Undefined {
                name,
                weak: symbol.is_weak(),
            },
            offset,
        ))
    }

    /// The item that covers an offset in a section, and its start. The end belongs to the last one.
    fn covering(&self, section: SectionIndex, offset: u64) -> Option<(ItemId, u64)> {
        let cut = self.sections.get(&section)?;
        let (&start, &id) = cut
            .items
            .range(..=offset)
            .next_back()
            .or(cut.items.iter().next())?;
        Some((id, start))
    }

    fn note_labels(&mut self) {
        let mut labels: Vec<(ItemId, u64)> = Vec::new();
        for item in &self.unit.items {
            for reloc in &item.relocations {
                if let (Referent::Item(id), Ok(offset)) =
                    (&reloc.referent, u64::try_from(reloc.offset))
                {
                    labels.push((*id, offset));
                }
            }
        }
        labels.sort_unstable();
        labels.dedup();
        for (id, label) in labels {
            if let Some(item) = self.unit.items.get_mut(id.0) {
                item.labels.push(label);
            }
        }
    }
}

/// Sections that the program's code sees, and tables of cleanups, as opposed to notes and call
/// frame information.
fn is_program(sh_type: elf::SectionType, name: &str) -> bool {
    let data = [
        elf::SHT_PROGBITS,
        elf::SHT_NOBITS,
        elf::SHT_INIT_ARRAY,
        elf::SHT_FINI_ARRAY,
        elf::SHT_PREINIT_ARRAY,
    ];
    data.contains(&sh_type) && !name.starts_with(".eh_frame")
}

fn section_kind(name: &str, sh_type: elf::SectionType, sh_flags: elf::SectionFlags) -> Kind {
    if [
        elf::SHT_INIT_ARRAY,
        elf::SHT_FINI_ARRAY,
        elf::SHT_PREINIT_ARRAY,
    ]
    .contains(&sh_type)
    {
        return Kind::LoaderCalls;
    }
    if sh_flags.contains(elf::SHF_TLS) {
        Kind::Tls
    } else if sh_flags.contains(elf::SHF_EXECINSTR) {
        Kind::Function
    } else if sh_flags.contains(elf::SHF_MERGE) {
        Kind::Constant
    } else if sh_type == elf::SHT_NOBITS {
        Kind::Bss
    } else if sh_flags.contains(elf::SHF_WRITE) && !name.starts_with(".data.rel.ro") {
        Kind::Data
    } else {
        // Constants with pointers are written by the loader only, which then protects them (RELRO).
        Kind::ReadOnly
    }
}

/// Ranges of the named symbols, and of what lies between them.
fn ranges(size: u64, named: BTreeMap<u64, Vec<Start>>) -> Vec<(std::ops::Range<u64>, Vec<Start>)> {
    let mut ranges = Vec::new();
    let mut position = 0;
    let starts: Vec<u64> = named.keys().copied().skip(1).chain([size]).collect();
    for ((start, symbols), next) in named.into_iter().zip(starts) {
        if start > position {
            ranges.push((position..start, Vec::new()));
        }
        let stated = symbols.iter().map(|symbol| symbol.size).max().unwrap_or(0);
        // A symbol without a size (assembly) reaches to the next one.
        let end = if stated == 0 {
            next
        } else {
            start.saturating_add(stated).min(next)
        };
        let end = end.max(start);
        ranges.push((start..end, symbols));
        position = end;
    }
    if position < size {
        ranges.push((position..size, Vec::new()));
    }
    ranges
}

/// The elements of a mergeable section: strings, or constants of one size.
fn constants(
    data: &[u8],
    sh_flags: elf::SectionFlags,
    section: &object::read::elf::ElfSection64<'_, '_, LittleEndian>,
) -> Vec<(u64, u64)> {
    let entry = section
        .elf_section_header()
        .sh_entsize
        .get(LittleEndian)
        .max(1);
    let entry = usize::try_from(entry).unwrap_or(1);
    let strings = sh_flags.contains(elf::SHF_STRINGS);
    let mut elements = Vec::new();
    let (mut start, mut position) = (0u64, 0u64);
    for element in data.chunks(entry) {
        position += element.len() as u64;
        if !strings || element.iter().all(|&byte| byte == 0) {
            elements.push((start, position));
            start = position;
        }
    }
    if start < position {
        elements.push((start, position));
    }
    elements
}
