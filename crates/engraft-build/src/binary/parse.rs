//! ELF file → binary.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use engraft_patch::{BuildId, LinkAddress};
use object::read::elf::{Dyn as _, ElfFile64, ProgramHeader as _};
use object::{
    LittleEndian, Object as _, ObjectSection as _, ObjectSegment as _, ObjectSymbol as _,
    RelocationFlags, RelocationTarget, elf,
};

use super::file::{Binary, GotSlots, LoadSegment, Symbol};
use super::ifuncs;

/// Why a binary cannot be patched.
#[derive(Debug, thiserror::Error)]
pub enum BinaryError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no ELF file, or a broken one.
    #[error("{path} is no usable ELF file: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It is for another machine, or no program or shared library.
    #[error(
        "{path} has ELF type {e_type} and machine {machine}; expected a program or shared library (2 or 3) for x86-64 (62)"
    )]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// `e_type`.
        e_type: u16,
        /// `e_machine`.
        machine: u16,
    },
    /// Nothing names this file: processes that contain it could not be told from others.
    #[error("{path} has no GNU build-id (hint: link it with -Wl,--build-id)")]
    NoBuildId {
        /// The file.
        path: PathBuf,
    },
    /// Two files of the request are the same binary.
    #[error("{first} and {second} have the same build-id {build_id}")]
    Duplicate {
        /// One.
        first: PathBuf,
        /// The other.
        second: PathBuf,
        /// Their build-id.
        build_id: BuildId,
    },
}

type Elf<'a> = ElfFile64<'a, LittleEndian>;

impl Binary {
    pub(crate) fn read(path: &Path) -> Result<Self, BinaryError> {
        Self::read_if(path, false)
    }

    /// Reads one that will not be patched, with or without a build-id.
    pub(crate) fn read_any(path: &Path) -> Result<Self, BinaryError> {
        Self::read_if(path, true)
    }

    fn read_if(path: &Path, anonymous: bool) -> Result<Self, BinaryError> {
        let bytes = std::fs::read(path).map_err(|source| BinaryError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        let malformed = |error: object::Error| BinaryError::Malformed {
            path: path.to_owned(),
            reason: error.to_string(),
        };
        let elf = Elf::parse(bytes.as_slice()).map_err(malformed)?;
        let header = elf.elf_header();
        let (e_type, machine) = (
            header.e_type.get(LittleEndian),
            header.e_machine.get(LittleEndian),
        );
        if ![elf::ET_EXEC, elf::ET_DYN].contains(&e_type) || machine != elf::EM_X86_64 {
            return Err(BinaryError::Unsupported {
                path: path.to_owned(),
                e_type: e_type.0,
                machine: machine.0,
            });
        }
        let build_id = elf.build_id().map_err(malformed)?.and_then(BuildId::new);
        let build_id = match (build_id, anonymous) {
            (Some(build_id), _) => build_id,
            (None, true) => BuildId::zero(),
            (None, false) => {
                let path = path.to_owned();
                return Err(BinaryError::NoBuildId { path });
            }
        };
        parse(&elf, path, build_id).map_err(malformed)
    }
}

fn parse(elf: &Elf<'_>, path: &Path, build_id: BuildId) -> Result<Binary, object::Error> {
    let is_dynamic = is_dynamic(elf)?;
    let mut binary = Binary {
        path: path.to_owned(),
        build_id,
        segments: segments(elf)?,
        symbols: HashMap::new(),
        slots: ifuncs::slots(elf, is_dynamic)?,
        versions: versions(elf)?,
        relative: HashMap::new(),
        eh_frame: eh_frame(elf)?,
        initialiser: elf
            .section_by_name(".init")
            .map(|section| section.address()..section.address().saturating_add(section.size())),
        is_dynamic,
        has_symtab: elf.symbols().next().is_some(),
        source_files: source_files(elf)?,
    };
    symbols(elf, &mut binary.symbols)?;
    dynamic_relocations(elf, &mut binary)?;
    Ok(binary)
}

/// What files the symbol table names. Startup code is in every binary and tells nothing.
fn source_files(elf: &Elf<'_>) -> Result<HashSet<OsString>, object::Error> {
    let mut files = HashSet::new();
    for symbol in elf.symbols() {
        if symbol.elf_symbol().st_type() == elf::STT_FILE {
            let name = Path::new(symbol.name()?).file_name();
            files.extend(
                name.filter(|name| *name != "crtstuff.c")
                    .map(ToOwned::to_owned),
            );
        }
    }
    Ok(files)
}

/// A static program that is position-independent has a dynamic section, too.
fn is_dynamic(elf: &Elf<'_>) -> Result<bool, object::Error> {
    let (mut dynamic, mut interpreter, mut is_program) = (false, false, false);
    for header in elf.elf_program_headers() {
        interpreter |= header.p_type(LittleEndian) == elf::PT_INTERP;
        for entry in header
            .dynamic(LittleEndian, elf.data())?
            .unwrap_or_default()
        {
            dynamic = true;
            is_program |= entry.d_tag(LittleEndian) == elf::DT_FLAGS_1
                && elf::DynamicFlags1(entry.d_val(LittleEndian)).contains(elf::DF_1_PIE);
        }
    }
    Ok(dynamic && (interpreter || !is_program))
}

fn segments(elf: &Elf<'_>) -> Result<Vec<LoadSegment>, object::Error> {
    let segment = |segment: object::read::elf::ElfSegment64<'_, '_, LittleEndian>| {
        Ok(LoadSegment {
            address: segment.address(),
            bytes: segment.data()?.to_vec(),
            is_executable: segment
                .elf_program_header()
                .p_flags(LittleEndian)
                .contains(elf::PF_X),
        })
    };
    elf.segments().map(segment).collect()
}

/// The call frame information that unwinders use, as it is in memory.
fn eh_frame(elf: &Elf<'_>) -> Result<Option<(u64, Vec<u8>)>, object::Error> {
    let section = elf.section_by_name(".eh_frame");
    let eh_frame = section.map(|it| Ok((it.address(), it.data()?.to_vec())));
    eh_frame.transpose()
}

fn symbols(elf: &Elf<'_>, symbols: &mut HashMap<String, Vec<Symbol>>) -> Result<(), object::Error> {
    let mut file = None;
    for symbol in elf.symbols().chain(elf.dynamic_symbols()) {
        let st_type = symbol.elf_symbol().st_type();
        let name = symbol.name()?;
        if st_type == elf::STT_FILE {
            file = Some(name.to_owned()).filter(|name| !name.is_empty());
        }
        // An IFUNC's symbol is none of the function that its name means.
        let kinds = [elf::STT_FUNC, elf::STT_OBJECT, elf::STT_NOTYPE];
        // An undefined function with a value has its canonical address here, in the PLT (non-PIE).
        let is_canonical = symbol.is_undefined() && symbol.address() != 0;
        if name.is_empty()
            || !kinds.contains(&st_type)
            || !(symbol.section_index().is_some() || is_canonical)
        {
            continue;
        }
        let found = Symbol {
            address: LinkAddress(symbol.address()),
            local: symbol.is_local(),
            file: file.clone().filter(|_| symbol.is_local()),
        };
        let known = symbols.entry(name.to_owned()).or_default();
        if !known
            .iter()
            .any(|other| other.address == found.address && !other.local)
        {
            known.push(found);
        }
    }
    Ok(())
}

fn dynamic_relocations(elf: &Elf<'_>, binary: &mut Binary) -> Result<(), object::Error> {
    let Some(relocations) = elf.dynamic_relocations() else {
        return Ok(());
    };
    let table = elf.dynamic_symbol_table();
    for (place, relocation) in relocations {
        let RelocationFlags::Elf { r_type } = relocation.flags() else {
            continue;
        };
        if r_type == elf::R_X86_64_RELATIVE {
            binary
                .relative
                .insert(place, relocation.addend().cast_unsigned());
            continue;
        }
        let (RelocationTarget::Symbol(index), Some(table)) = (relocation.target(), &table) else {
            continue;
        };
        let name = object::ObjectSymbolTable::symbol_by_index(table, index)?
            .name()?
            .to_owned();
        let slots: &mut GotSlots = binary.slots.entry(name).or_default();
        match r_type {
            elf::R_X86_64_JUMP_SLOT => slots.jump = Some(LinkAddress(place)),
            elf::R_X86_64_GLOB_DAT => slots.data = Some(LinkAddress(place)),
            _ => {}
        }
    }
    Ok(())
}

/// The versions of imported symbols (`.gnu.version_r`).
fn versions(elf: &Elf<'_>) -> Result<HashMap<String, String>, object::Error> {
    let mut versions = HashMap::new();
    let table = elf.elf_section_table().versions(LittleEndian, elf.data())?;
    let Some(table) = table else {
        return Ok(versions);
    };
    for symbol in elf.dynamic_symbols().filter(|symbol| symbol.is_undefined()) {
        let index = table.version_index(LittleEndian, symbol.index());
        if let Some(version) = table.version(index.index())? {
            let name = String::from_utf8_lossy(version.name()).into_owned();
            versions.insert(symbol.name()?.to_owned(), name);
        }
    }
    Ok(versions)
}
