//! Bytes → patch. Nothing in the bytes is trusted: they may come from anywhere.

use std::collections::BTreeMap;

use object::read::elf::{ElfFile64, ElfSection64};
use object::{
    LittleEndian, Object as _, ObjectSection as _, ObjectSymbol as _, RelocationFlags,
    RelocationTarget as ElfTarget, SymbolIndex,
};

use super::manifest::{FunctionEntry, Manifest, ObjectEntry, Reference, parse_build_id};
use super::{FORMAT_VERSION, MANIFEST, Part, relocation_kind, seal};
use crate::check::Inconsistency;
use crate::model::{
    Function, Image, ImageAddress, ImageRange, LinkAddress, Object, OldPart, Patch, Relocation,
    RelocationTarget, Segment, Trampoline,
};

/// Why bytes are not a usable patch file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No ELF file at all.
    #[error("not a patch file: it is no ELF file (`engraft build` makes patch files)")]
    NotElf,
    /// An ELF file of another kind.
    #[error("not a patch file: an ELF file without {missing} (`engraft build` makes patch files)")]
    NotAPatch {
        /// The section that every patch file has.
        missing: &'static str,
    },
    /// The end is missing.
    #[error("truncated: {found} bytes of {expected}; fetch or build the patch file again")]
    Truncated {
        /// Bytes there are.
        found: u64,
        /// Bytes there should be, or at least should be where the length itself is missing.
        expected: u64,
    },
    /// The bytes are not those that were written.
    #[error(
        "damaged: SHA-256 {found}, sealed with {expected}; fetch or build the patch file again"
    )]
    Damaged {
        /// The digest in the file.
        expected: String,
        /// The digest of the file.
        found: String,
    },
    /// Whole, but of another format version.
    #[error(
        "patch file format {found}, this engraft reads {FORMAT_VERSION}; use the engraft that built it, or build it again"
    )]
    UnsupportedVersion {
        /// The file's version.
        found: u32,
    },
    /// Whole, but for another machine.
    #[error(
        "ELF class {class} and machine {machine}, this engraft reads 64-bit files for x86-64 (class 2, machine 62)"
    )]
    UnsupportedArchitecture {
        /// `EI_CLASS`.
        class: u8,
        /// `e_machine`.
        machine: u16,
    },
    /// Whole, but its ELF structure, its manifest or their relation is wrong.
    #[error("malformed {place}: {reason}")]
    Malformed {
        /// The section or structure.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Whole and well-formed, but a patch that breaks a rule.
    #[error("inconsistent: {0}")]
    Inconsistent(#[from] Inconsistency),
}

/// Reads and verifies a patch file.
///
/// It returns whatever the bytes are, and a patch that it returns has passed [`Patch::check`].
///
/// # Errors
///
/// What is wrong with the bytes. The seal is checked first, so damage is reported as damage.
pub fn read(bytes: &[u8]) -> Result<Patch, ReadError> {
    let version = seal::verify(bytes)?;
    check_architecture(bytes)?;
    if version != FORMAT_VERSION {
        return Err(ReadError::UnsupportedVersion { found: version });
    }
    let elf = Elf::parse(bytes).map_err(|e| malformed("ELF file", e))?;
    let reader = Reader { elf };
    let manifest = reader.manifest()?;
    let objects: Result<_, _> = manifest
        .objects
        .iter()
        .enumerate()
        .map(|(n, entry)| reader.object(n, entry))
        .collect();
    let patch = Patch {
        name: manifest.name,
        concessions: manifest.concessions,
        objects: objects?,
    };
    patch.check()?;
    Ok(patch)
}

fn check_architecture(bytes: &[u8]) -> Result<(), ReadError> {
    let class = bytes.get(4).copied().unwrap_or_default();
    let low_high = bytes.get(18..20).and_then(|field| field.try_into().ok());
    let machine = u16::from_le_bytes(low_high.unwrap_or_default());
    if class != object::elf::ELFCLASS64.0 || machine != object::elf::EM_X86_64.0 {
        return Err(ReadError::UnsupportedArchitecture { class, machine });
    }
    Ok(())
}

fn malformed(place: impl Into<String>, reason: impl ToString) -> ReadError {
    ReadError::Malformed {
        place: place.into(),
        reason: reason.to_string(),
    }
}

type Elf<'a> = ElfFile64<'a, LittleEndian>;
type Section<'a, 'f> = ElfSection64<'a, 'f, LittleEndian>;

struct Reader<'a> {
    elf: Elf<'a>,
}

/// The sections of one object's image.
struct Sections<'a, 'f> {
    text: Section<'a, 'f>,
    read_only: Section<'a, 'f>,
    data: Section<'a, 'f>,
    bss: Section<'a, 'f>,
}

impl<'a> Reader<'a> {
    fn manifest(&self) -> Result<Manifest, ReadError> {
        let section = self
            .elf
            .section_by_name(MANIFEST)
            .ok_or(ReadError::NotAPatch { missing: MANIFEST })?;
        let manifest: Manifest =
            serde_json::from_slice(contents(&section)?).map_err(|e| malformed(MANIFEST, e))?;
        if manifest.format_version != FORMAT_VERSION {
            return Err(ReadError::UnsupportedVersion {
                found: manifest.format_version,
            });
        }
        Ok(manifest)
    }

    fn object(&self, index: usize, entry: &ObjectEntry) -> Result<Object, ReadError> {
        let build_id = parse_build_id(&entry.build_id)
            .ok_or_else(|| malformed(MANIFEST, format!("{:?} is no build-id", entry.build_id)))?;
        Ok(Object {
            build_id,
            file_name: entry.file_name.clone(),
            functions: self.functions(index, entry)?,
            image: self.image(index, entry)?,
        })
    }

    fn functions(&self, index: usize, entry: &ObjectEntry) -> Result<Vec<Function>, ReadError> {
        let section = self.section(Part::Old, index)?;
        let mut old = contents(&section)?;
        let functions: Result<Vec<_>, _> = entry
            .functions
            .iter()
            .map(|function| {
                read_function(function, &mut old).ok_or_else(|| {
                    malformed(
                        Part::Old.section_name(index),
                        format!("too short for the old code of {}", function.name),
                    )
                })
            })
            .collect();
        if functions.is_ok() && !old.is_empty() {
            let reason = format!("{} bytes that belong to no function", old.len());
            return Err(malformed(Part::Old.section_name(index), reason));
        }
        functions
    }

    fn image(&self, index: usize, entry: &ObjectEntry) -> Result<Image, ReadError> {
        let sections = Sections {
            text: self.section(Part::Text, index)?,
            read_only: self.section(Part::ReadOnly, index)?,
            data: self.section(Part::Data, index)?,
            bss: self.section(Part::Bss, index)?,
        };
        let mut relocations = Vec::new();
        for (segment, section) in [
            (Segment::Text, &sections.text),
            (Segment::ReadOnly, &sections.read_only),
            (Segment::Data, &sections.data),
        ] {
            self.relocations(
                segment,
                section,
                &sections,
                &entry.references,
                &mut relocations,
            )?;
        }
        if relocations.len() != entry.relocations {
            let reason = format!(
                "{} relocations, listed are {}",
                relocations.len(),
                entry.relocations
            );
            return Err(malformed(format!("object {index}"), reason));
        }
        let unwind = entry.unwind.map(|unwind| ImageRange {
            start: unwind.start_in(Segment::ReadOnly),
            size: unwind.size,
        });
        Ok(Image {
            text: contents(&sections.text)?.to_vec(),
            read_only: contents(&sections.read_only)?.to_vec(),
            data: contents(&sections.data)?.to_vec(),
            bss_size: sections.bss.size(),
            relocations,
            unwind,
            address_escapes: entry.address_escapes,
        })
    }

    fn relocations(
        &self,
        segment: Segment,
        section: &Section<'_, '_>,
        sections: &Sections<'_, '_>,
        references: &BTreeMap<String, Reference>,
        relocations: &mut Vec<Relocation>,
    ) -> Result<(), ReadError> {
        let bad = |reason: String| malformed(format!("relocations of {segment:?}"), reason);
        for (offset, relocation) in section.relocations() {
            let RelocationFlags::Elf { r_type } = relocation.flags() else {
                return Err(bad("not ELF relocations".to_owned()));
            };
            let kind = relocation_kind(r_type)
                .ok_or_else(|| bad(format!("type {} at {offset:#x} is not supported", r_type.0)))?;
            let ElfTarget::Symbol(symbol) = relocation.target() else {
                return Err(bad(format!("no symbol at {offset:#x}")));
            };
            let target = self.target(symbol, sections, references).map_err(bad)?;
            let place = ImageAddress { segment, offset };
            relocations.push(Relocation {
                place,
                kind,
                target,
                addend: relocation.addend(),
            });
        }
        Ok(())
    }

    fn target(
        &self,
        symbol: SymbolIndex,
        sections: &Sections<'_, '_>,
        references: &BTreeMap<String, Reference>,
    ) -> Result<RelocationTarget, String> {
        let symbol = self
            .elf
            .symbol_by_index(symbol)
            .map_err(|e| e.to_string())?;
        let name = symbol.name().map_err(|e| e.to_string())?;
        let Some(section) = symbol.section_index() else {
            let reference = references.get(name);
            return reference
                .map(Reference::target)
                .ok_or_else(|| format!("{name} is not in the manifest's references"));
        };
        let (segment, base) = if section == sections.text.index() {
            (Segment::Text, 0)
        } else if section == sections.read_only.index() {
            (Segment::ReadOnly, 0)
        } else if section == sections.data.index() {
            (Segment::Data, 0)
        } else if section == sections.bss.index() {
            (Segment::Data, sections.data.size())
        } else {
            return Err(format!("{name} is not in this object's image"));
        };
        let offset = base
            .checked_add(symbol.address())
            .ok_or_else(|| format!("{name} lies beyond the address space"))?;
        Ok(RelocationTarget::Image(ImageAddress { segment, offset }))
    }

    fn section(&self, part: Part, index: usize) -> Result<Section<'a, '_>, ReadError> {
        let name = part.section_name(index);
        self.elf
            .section_by_name(&name)
            .ok_or_else(|| malformed(name, "missing"))
    }
}

/// Takes the old function's bytes from the front of `old`; `None` if there are not enough.
fn read_function(entry: &FunctionEntry, old: &mut &[u8]) -> Option<Function> {
    let mut parts = Vec::new();
    for part in &entry.old {
        let code = old.split_off(..usize::try_from(part.size).ok()?)?.to_vec();
        parts.push(OldPart {
            address: LinkAddress(part.start.0),
            code,
        });
    }
    let trampoline = Trampoline {
        entry: entry.trampoline.start_in(Segment::Text),
        size: entry.trampoline.size,
    };
    Some(Function {
        name: entry.name.clone(),
        parts,
        new_entry: entry.new.start_in(Segment::Text),
        new_size: entry.new.size,
        trampoline,
    })
}

fn contents<'a>(section: &Section<'a, '_>) -> Result<&'a [u8], ReadError> {
    let place = || section.name().unwrap_or("a section").to_owned();
    section.data().map_err(|e| malformed(place(), e))
}
