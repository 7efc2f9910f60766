//! Patch → bytes.

use std::collections::HashMap;

use object::write::{
    Object as Elf, Relocation as ElfRelocation, SectionId, Symbol, SymbolId, SymbolSection,
};
use object::{
    Architecture, BinaryFormat, Endianness, RelocationFlags, SectionKind, SymbolFlags, SymbolKind,
    SymbolScope,
};

use super::manifest::{Manifest, import_symbol, object_symbol};
use super::{FORMAT_VERSION, MANIFEST, Part, relocation_type, seal};
use crate::check::Inconsistency;
use crate::model::{
    Image, ImageAddress, Object, Patch, Relocation, RelocationTarget, Segment, Trampoline,
};

/// Alignment of an image's sections in the file, for readers that map it. In memory each segment
/// starts on a page of its own, whatever this says.
const ALIGNMENT: u64 = 16;

/// Why a patch cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// It breaks a rule that the reader would refuse it for.
    #[error("the patch is not consistent: {0}")]
    Inconsistent(#[from] Inconsistency),
    /// The manifest could not be put into JSON.
    #[error("the manifest cannot be encoded: {0}")]
    Manifest(#[from] serde_json::Error),
    /// The ELF writer refused.
    #[error("the ELF file cannot be encoded: {0}")]
    Elf(#[from] object::write::Error),
    /// The ELF writer put the first section elsewhere than right after the ELF header.
    #[error("the ELF writer did not place the seal right behind the ELF header")]
    SealMisplaced,
}

/// The bytes of a patch file.
///
/// # Errors
///
/// If the patch breaks a rule of [`Patch::check`], or cannot be encoded.
pub fn write(patch: &Patch) -> Result<Vec<u8>, WriteError> {
    patch.check()?;
    let mut elf = Elf::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
    let id = add_section(&mut elf, seal::SECTION, SectionKind::Other);
    elf.append_section_data(id, &seal::blank(FORMAT_VERSION), 1);
    let mut manifest = serde_json::to_string_pretty(&Manifest::of(patch, FORMAT_VERSION))?;
    manifest.push('\n');
    let id = add_section(&mut elf, MANIFEST, SectionKind::Other);
    elf.append_section_data(id, manifest.as_bytes(), 1);
    for (index, object) in patch.objects.iter().enumerate() {
        ObjectWriter::new(&mut elf, index, object).write(object)?;
    }
    let mut file = elf.write()?;
    seal::close(&mut file).ok_or(WriteError::SealMisplaced)?;
    Ok(file)
}

fn add_section(elf: &mut Elf<'_>, name: &str, kind: SectionKind) -> SectionId {
    elf.add_section(Vec::new(), name.as_bytes().to_vec(), kind)
}

/// Writes one object's sections and symbols.
struct ObjectWriter<'w, 'e> {
    elf: &'w mut Elf<'e>,
    index: usize,
    text: SectionId,
    read_only: SectionId,
    data: SectionId,
    bss: SectionId,
    /// Bytes in `data`; higher offsets in the data segment are in `bss`.
    data_size: u64,
    places: HashMap<ImageAddress, SymbolId>,
    references: HashMap<String, SymbolId>,
}

impl<'w, 'e> ObjectWriter<'w, 'e> {
    fn new(elf: &'w mut Elf<'e>, index: usize, object: &Object) -> Self {
        let mut image_section =
            |part: Part, kind| add_section(elf, &part.section_name(index), kind);
        let text = image_section(Part::Text, SectionKind::Text);
        let read_only = image_section(Part::ReadOnly, SectionKind::ReadOnlyData);
        let data = image_section(Part::Data, SectionKind::Data);
        let bss = image_section(Part::Bss, SectionKind::UninitializedData);
        Self {
            elf,
            index,
            text,
            read_only,
            data,
            bss,
            data_size: object.image.data.len() as u64,
            places: HashMap::new(),
            references: HashMap::new(),
        }
    }

    fn write(mut self, object: &Object) -> Result<(), WriteError> {
        self.segments(&object.image);
        self.old_code(object);
        for function in &object.functions {
            let (entry, size) = (function.new_entry, function.new_size);
            let id = self.symbol(&function.name, entry, size, SymbolKind::Text);
            self.places.entry(function.new_entry).or_insert(id);
            let Trampoline { entry, size } = function.trampoline;
            let name = format!("{}.trampoline", function.name);
            let id = self.symbol(&name, entry, size, SymbolKind::Text);
            self.places.entry(entry).or_insert(id);
        }
        for relocation in &object.image.relocations {
            self.relocation(relocation)?;
        }
        Ok(())
    }

    fn segments(&mut self, image: &Image) {
        self.elf
            .append_section_data(self.text, &image.text, ALIGNMENT);
        self.elf
            .append_section_data(self.read_only, &image.read_only, ALIGNMENT);
        self.elf
            .append_section_data(self.data, &image.data, ALIGNMENT);
        self.elf.append_section_bss(self.bss, image.bss_size, 1);
    }

    fn old_code(&mut self, object: &Object) {
        let id = add_section(
            self.elf,
            &Part::Old.section_name(self.index),
            SectionKind::Other,
        );
        for part in object.functions.iter().flat_map(|function| &function.parts) {
            self.elf.append_section_data(id, &part.code, 1);
        }
    }

    fn relocation(&mut self, relocation: &Relocation) -> Result<(), WriteError> {
        let symbol = match &relocation.target {
            RelocationTarget::Image(address) => self.place(*address),
            RelocationTarget::Object { name, address } => {
                self.reference(object_symbol(self.index, name, *address))
            }
            RelocationTarget::Import(import) => self.reference(import_symbol(self.index, import)),
        };
        let ImageAddress { segment, offset } = relocation.place;
        let section = match segment {
            Segment::Text => self.text,
            Segment::ReadOnly => self.read_only,
            Segment::Data => self.data,
        };
        let flags = RelocationFlags::Elf {
            r_type: relocation_type(relocation.kind),
        };
        let addend = relocation.addend;
        self.elf.add_relocation(
            section,
            ElfRelocation {
                offset,
                symbol,
                addend,
                flags,
            },
        )?;
        Ok(())
    }

    /// The symbol for a place in the image: a function that starts there, else a label.
    fn place(&mut self, address: ImageAddress) -> SymbolId {
        if let Some(&id) = self.places.get(&address) {
            return id;
        }
        let part = match address.segment {
            Segment::Text => Part::Text,
            Segment::ReadOnly => Part::ReadOnly,
            Segment::Data => Part::Data,
        };
        let name = format!("{}+{:#x}", part.section_name(self.index), address.offset);
        let id = self.symbol(&name, address, 0, SymbolKind::Label);
        self.places.insert(address, id);
        id
    }

    fn symbol(&mut self, name: &str, at: ImageAddress, size: u64, kind: SymbolKind) -> SymbolId {
        let (section, value) = match at.segment {
            Segment::Text => (self.text, at.offset),
            Segment::ReadOnly => (self.read_only, at.offset),
            Segment::Data => match at.offset.checked_sub(self.data_size) {
                Some(beyond) => (self.bss, beyond),
                None => (self.data, at.offset),
            },
        };
        self.elf.add_symbol(Symbol {
            name: name.as_bytes().to_vec(),
            value,
            size,
            kind,
            scope: SymbolScope::Compilation,
            weak: false,
            section: SymbolSection::Section(section),
            flags: SymbolFlags::None,
        })
    }

    /// The undefined symbol of that name.
    fn reference(&mut self, name: String) -> SymbolId {
        if let Some(&id) = self.references.get(&name) {
            return id;
        }
        let id = self.elf.add_symbol(Symbol {
            name: name.as_bytes().to_vec(),
            value: 0,
            size: 0,
            kind: SymbolKind::Unknown,
            scope: SymbolScope::Unknown,
            weak: false,
            section: SymbolSection::Undefined,
            flags: SymbolFlags::None,
        });
        self.references.insert(name, id);
        id
    }
}
