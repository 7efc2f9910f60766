//! Whether the build's own two objects hold the same code and data. Most objects that a changed
//! header makes the build compile again do, and need no further look.

use std::path::Path;

use crate::compile::LTO_SECTIONS;
use object::read::elf::ElfFile64;
use object::{
    LittleEndian, Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget,
    SectionFlags, elf,
};

/// True if both files can be read and everything that reaches memory is the same in both.
pub(super) fn same_program(first: &Path, second: &Path) -> bool {
    let (Ok(first), Ok(second)) = (std::fs::read(first), std::fs::read(second)) else {
        return false;
    };
    matches!((contents(&first), contents(&second)), (Ok(Some(first)), Ok(Some(second))) if first == second)
}

/// What a linker would make use of, debugging information aside.
#[derive(PartialEq)]
struct Contents {
    sections: Vec<Section>,
    /// Name, section, value, size, type and binding.
    symbols: Vec<(String, String, u64, u64, elf::SymbolType, elf::SymbolBind)>,
}

#[derive(PartialEq)]
struct Section {
    name: String,
    flags: elf::SectionFlags,
    alignment: u64,
    size: u64,
    bytes: Vec<u8>,
    /// Place, type, symbol (or section) name, addend.
    relocations: Vec<(u64, elf::RelocationType, String, i64)>,
}

type Elf<'a> = ElfFile64<'a, LittleEndian>;

/// `None` if the linker makes code of something else than this.
fn contents(bytes: &[u8]) -> Result<Option<Contents>, object::Error> {
    let elf = Elf::parse(bytes)?;
    let mut sections = Vec::new();
    for section in elf.sections() {
        let SectionFlags::Elf { sh_flags, .. } = section.flags() else {
            continue;
        };
        if section.name()?.starts_with(LTO_SECTIONS) {
            return Ok(None);
        }
        if !sh_flags.contains(elf::SHF_ALLOC) {
            continue;
        }
        let mut relocations = Vec::new();
        for (place, relocation) in section.relocations() {
            let object::RelocationFlags::Elf { r_type } = relocation.flags() else {
                continue;
            };
            let RelocationTarget::Symbol(symbol) = relocation.target() else {
                continue;
            };
            let symbol = elf.symbol_by_index(symbol)?;
            let name = match symbol.name()? {
                "" => section_name(&elf, &symbol)?,
                name => name.to_owned(),
            };
            relocations.push((place, r_type, name, relocation.addend()));
        }
        sections.push(Section {
            name: section.name()?.to_owned(),
            flags: sh_flags,
            alignment: section.align(),
            size: section.size(),
            bytes: section.data()?.to_vec(),
            relocations,
        });
    }
    let mut symbols = Vec::new();
    for symbol in elf.symbols() {
        let raw = symbol.elf_symbol();
        let kind = raw.st_type();
        // Sections of debugging information have symbols, too.
        if kind != elf::STT_SECTION {
            let name = symbol.name()?.to_owned();
            let section = section_name(&elf, &symbol)?;
            let (value, size) = (symbol.address(), symbol.size());
            symbols.push((name, section, value, size, kind, raw.st_bind()));
        }
    }
    Ok(Some(Contents { sections, symbols }))
}

fn section_name(
    elf: &Elf<'_>,
    symbol: &object::read::elf::ElfSymbol64<'_, '_, LittleEndian>,
) -> Result<String, object::Error> {
    match symbol.section_index() {
        Some(index) => Ok(elf.section_by_index(index)?.name()?.to_owned()),
        None => Ok(String::new()),
    }
}
