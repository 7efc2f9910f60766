//! Functions that are chosen while the loader relocates (`STT_GNU_IFUNC`): a static program's
//! `strlen`, say. Their symbols are those of the code that chooses. What was chosen is in a GOT
//! slot, which no symbol names, only the address of that code.

use std::collections::{HashMap, HashSet};

use engraft_patch::LinkAddress;
use object::read::elf::{ElfFile64, Rela as _, SectionHeader as _};
use object::{LittleEndian, Object as _, ObjectSection as _, ObjectSymbol as _, elf};

use super::file::GotSlots;

/// The GOT slots of such functions, by name.
pub(super) fn slots(
    elf: &ElfFile64<'_, LittleEndian>,
    is_dynamic: bool,
) -> Result<HashMap<String, GotSlots>, object::Error> {
    let mut found = HashMap::new();
    let slots = chosen(elf)?;
    for (name, addresses) in choosers(elf, is_dynamic)? {
        let mut addresses = addresses.iter();
        if let (Some(address), None) = (addresses.next(), addresses.next())
            && let Some(&slot) = slots.get(address)
        {
            let slots = GotSlots {
                jump: None,
                data: Some(slot),
            };
            found.insert(name, slots);
        }
    }
    Ok(found)
}

/// What choose, by their names.
fn choosers(
    elf: &ElfFile64<'_, LittleEndian>,
    is_dynamic: bool,
) -> Result<HashMap<String, HashSet<u64>>, object::Error> {
    let mut choosers: HashMap<String, HashSet<u64>> = HashMap::new();
    for symbol in elf.symbols().chain(elf.dynamic_symbols()) {
        let is_ifunc = symbol.elf_symbol().st_type() == elf::STT_GNU_IFUNC;
        // The linker makes a library's hidden functions local. Where nothing is imported, a name
        // means them.
        let is_meant = !(symbol.is_local() && is_dynamic);
        if is_ifunc && symbol.section_index().is_some() && is_meant {
            let addresses = choosers.entry(symbol.name()?.to_owned()).or_default();
            addresses.insert(symbol.address());
        }
    }
    Ok(choosers)
}

/// GOT slots by the address of what chooses their content.
fn chosen(elf: &ElfFile64<'_, LittleEndian>) -> Result<HashMap<u64, LinkAddress>, object::Error> {
    let mut got = Vec::new();
    for section in elf.sections() {
        // Variables are relocated in the same way, but may have changed since.
        if section.name()?.starts_with(".got") {
            let end = section.address().saturating_add(section.size());
            got.push(section.address()..end);
        }
    }
    let mut slots = HashMap::new();
    for section in elf.elf_section_table().iter() {
        let allocated = section.sh_flags(LittleEndian).contains(elf::SHF_ALLOC);
        let Some((relocations, _)) = section
            .rela(LittleEndian, elf.data())?
            .filter(|_| allocated)
        else {
            continue;
        };
        for relocation in relocations {
            let place = relocation.r_offset(LittleEndian);
            let r_type = relocation.r_type(LittleEndian, false);
            if r_type == elf::R_X86_64_IRELATIVE && got.iter().any(|got| got.contains(&place)) {
                let chooser = relocation.r_addend(LittleEndian).cast_unsigned();
                slots.entry(chooser).or_insert(LinkAddress(place));
            }
        }
    }
    Ok(slots)
}
