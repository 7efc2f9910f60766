//! Where a section or a function of the program is, when only its file says so.
//!
//! Static programs of many toolchains have an `.eh_frame` but no program header that leads to it,
//! and symbols that are not exported are in no program's memory. The section headers are not
//! loaded; they are read from `/proc/PID/exe`, which is the very file that runs, also if it was
//! deleted or replaced, or lies in another mount namespace, and which cannot be written while it
//! runs. The section itself is still read from memory.

use std::ops::Range;

use object::LittleEndian;
use object::elf::PT_LOAD;
use object::read::elf::{ElfFile64, ProgramHeader as _};
use object::read::{Object, ObjectSection, ObjectSymbol, SymbolKind};

use crate::elf::modules::Module;
use crate::process::foreign_file::{BoundedFile, open_ordinary};
use crate::process::handle::Process;
use crate::sys::address::TargetAddress;

/// The place of the section in memory; `None` if there is none, or if the module is not what this
/// file was loaded as.
pub(crate) fn find_section(
    process: &Process,
    module: &Module,
    name: &str,
) -> Option<Range<TargetAddress>> {
    with_file(process, module, |file| {
        let section = file.section_by_name(name)?;
        let end = section.address().checked_add(section.size())?;
        let is_loaded = module.program_headers.iter().any(|header| {
            let end_of_load = header.address.saturating_add(header.file_size);
            header.kind == PT_LOAD && header.address <= section.address() && end <= end_of_load
        });
        is_loaded.then(|| module.address(section.address())..module.address(end))
    })
}

/// Where a function is that the program defines, exported or not; `None` also if its symbols were
/// stripped.
pub(crate) fn find_function(
    process: &Process,
    module: &Module,
    name: &str,
) -> Option<TargetAddress> {
    with_file(process, module, |file| {
        let symbols = file.symbols().chain(file.dynamic_symbols());
        let mut functions =
            symbols.filter(|symbol| symbol.is_definition() && symbol.kind() == SymbolKind::Text);
        let function = functions.find(|symbol| symbol.name_bytes() == Ok(name.as_bytes()))?;
        Some(module.address(function.address()))
    })
}

type ProgramFile<'f> = ElfFile64<'f, LittleEndian, &'f BoundedFile>;

/// Looks into the program's file; `None` if the module is not what it was loaded as.
fn with_file<R>(
    process: &Process,
    module: &Module,
    look: impl FnOnce(ProgramFile<'_>) -> Option<R>,
) -> Option<R> {
    let file = open_ordinary(&process.memory_task().path("exe")).ok()?;
    let bounded = BoundedFile::new(file);
    let file = ElfFile64::<LittleEndian, _>::parse(&bounded).ok()?;
    let endian = LittleEndian;
    let of_file = file.elf_program_headers().iter().map(|header| {
        (
            header.p_type(endian),
            header.p_offset(endian),
            header.p_vaddr(endian),
            header.p_memsz(endian),
        )
    });
    let headers = module.program_headers.iter();
    let of_module = headers.map(|header| {
        (
            header.kind,
            header.offset,
            header.address,
            header.memory_size,
        )
    });
    of_file.eq(of_module).then(|| look(file)).flatten()
}

/// Those of some names that the program's file has a function of.
pub(crate) fn functions_named<'n>(
    process: &Process,
    module: &Module,
    names: &[&'n str],
) -> Vec<&'n str> {
    let found = with_file(process, module, |file| {
        let symbols = file.symbols().chain(file.dynamic_symbols());
        let functions = symbols.filter(|it| it.is_definition() && it.kind() == SymbolKind::Text);
        let mut found = Vec::new();
        for function in functions {
            let name = function.name_bytes().unwrap_or_default();
            found.extend(names.iter().find(|wanted| wanted.as_bytes() == name));
        }
        Some(found)
    });
    found.unwrap_or_default()
}
