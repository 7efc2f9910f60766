//! The rules that a patch obeys beyond what its types say.
//!
//! The writer refuses to write a patch that breaks one and the reader refuses to return one, so a
//! [`Patch`] that was read from a file obeys all of them.

mod inconsistency;

use std::collections::HashSet;

use crate::model::{
    Function, Image, ImageAddress, ImageRange, Import, LinkAddress, Missing, Object, Patch,
    Relocation, RelocationKind, RelocationTarget, Segment, Trampoline,
};

pub use inconsistency::Inconsistency;

/// The longest patch name, in bytes.
pub const MAXIMUM_NAME: usize = 63;
/// The largest image, in bytes: code and data must reach each other and the old object with 32-bit
/// displacements, so anything near 2 GiB could never be placed.
pub const MAXIMUM_IMAGE: u64 = 1 << 30;
/// Link-time addresses lie below this one: the lower half of the x86-64 address space.
pub const ADDRESS_LIMIT: u64 = 1 << 47;
/// The longest symbol or file name, in bytes. Mangled names reach some thousands.
const MAXIMUM_SYMBOL: usize = 64 * 1024;

impl Patch {
    /// Checks every rule.
    ///
    /// # Errors
    ///
    /// The first rule that is broken.
    pub fn check(&self) -> Result<(), Inconsistency> {
        if !is_patch_name(&self.name) {
            return Err(Inconsistency::PatchName {
                name: self.name.clone(),
            });
        }
        if self.objects.is_empty() {
            return Err(Inconsistency::NoObjects);
        }
        for Missing { name, source_file } in &self.concessions.missing {
            check_name(name, "name of what is missing", char::is_control)?;
            check_name(source_file, "source file", char::is_control)?;
        }
        for name in &self.concessions.accepted_layouts {
            check_name(name, "type name", char::is_control)?;
        }
        let mut build_ids = HashSet::new();
        for object in &self.objects {
            if !build_ids.insert(&object.build_id) {
                return Err(Inconsistency::DuplicateObject {
                    build_id: object.build_id.to_string(),
                });
            }
            check_object(object)?;
        }
        Ok(())
    }
}

/// True for 1 to 63 bytes of `[A-Za-z0-9._-]`.
pub fn is_patch_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=MAXIMUM_NAME).contains(&name.len()) && name.bytes().all(allowed)
}

fn check_object(object: &Object) -> Result<(), Inconsistency> {
    check_name(&object.file_name, "file name without directories", |c| {
        c == '/' || !is_shown(c)
    })?;
    if object.functions.is_empty() {
        return Err(Inconsistency::NoFunctions {
            object: object.file_name.clone(),
        });
    }
    for function in &object.functions {
        check_function(function, &object.image)?;
    }
    check_overlaps(&object.functions)?;
    check_image(&object.image)
}

fn check_function(function: &Function, image: &Image) -> Result<(), Inconsistency> {
    check_symbol(&function.name)?;
    if function.parts.is_empty() || function.parts.iter().any(|part| part.code.is_empty()) {
        return Err(Inconsistency::EmptyPart {
            function: function.name.clone(),
        });
    }
    for part in &function.parts {
        check_address(part.address, part.code.len() as u64, &function.name)?;
    }
    if function.site().is_none() {
        return Err(Inconsistency::NoSite {
            function: function.name.clone(),
        });
    }
    let text = image.text.len() as u64;
    let ImageAddress { segment, offset } = function.new_entry;
    let size = function.new_size;
    if !is_inside(function.new_entry, size, Segment::Text, image) {
        return Err(Inconsistency::EntryOutsideText {
            function: function.name.clone(),
            segment,
            offset,
            size,
            text,
        });
    }
    let Trampoline { entry, size } = function.trampoline;
    if !is_inside(entry, size, Segment::Text, image) {
        let ImageAddress { segment, offset } = entry;
        return Err(Inconsistency::TrampolineOutsideText {
            function: function.name.clone(),
            segment,
            offset,
            size,
            text,
        });
    }
    Ok(())
}

/// Whether something that is not empty lies inside the initialised bytes of a segment.
fn is_inside(start: ImageAddress, size: u64, segment: Segment, image: &Image) -> bool {
    let length = image.bytes(segment).len() as u64;
    let end = start.offset.checked_add(size);
    start.segment == segment && size > 0 && end.is_some_and(|end| end <= length)
}

fn check_overlaps(functions: &[Function]) -> Result<(), Inconsistency> {
    let mut parts: Vec<_> = functions
        .iter()
        .flat_map(|f| {
            f.parts
                .iter()
                .map(|p| (p.address.0, p.code.len() as u64, &f.name))
        })
        .collect();
    parts.sort_unstable();
    for (&(start, size, first), &(next, _, second)) in parts.iter().zip(parts.iter().skip(1)) {
        if next < start.saturating_add(size) {
            return Err(Inconsistency::OverlappingFunctions {
                first: first.clone(),
                second: second.clone(),
                address: next,
            });
        }
    }
    Ok(())
}

fn check_image(image: &Image) -> Result<(), Inconsistency> {
    let bytes = image.text.len() as u64 + image.read_only.len() as u64 + image.data.len() as u64;
    let size = bytes.saturating_add(image.bss_size);
    if size > MAXIMUM_IMAGE {
        return Err(Inconsistency::ImageTooLarge { size });
    }
    if let Some(ImageRange { start, size }) = image.unwind
        && !is_inside(start, size, Segment::ReadOnly, image)
    {
        let ImageAddress { segment, offset } = start;
        return Err(Inconsistency::UnwindOutsideReadOnly {
            segment,
            offset,
            size,
            read_only: image.read_only.len() as u64,
        });
    }
    for relocation in &image.relocations {
        check_relocation(relocation, image)?;
    }
    check_places(&image.relocations)
}

fn check_relocation(relocation: &Relocation, image: &Image) -> Result<(), Inconsistency> {
    let ImageAddress { segment, offset } = relocation.place;
    let width = relocation.kind.width();
    let size = image.bytes(segment).len() as u64;
    if offset.checked_add(width).is_none_or(|end| end > size) {
        return Err(Inconsistency::PlaceOutside {
            segment,
            offset,
            width,
            size,
        });
    }
    match &relocation.target {
        RelocationTarget::Image(target) => {
            // The end of a segment is a legitimate address, as the end of an array is in C.
            let size = image.size(target.segment);
            if target.offset > size {
                let ImageAddress { segment, offset } = *target;
                return Err(Inconsistency::TargetOutside {
                    segment,
                    offset,
                    size,
                });
            }
            Ok(())
        }
        RelocationTarget::Object { name, address } => {
            check_symbol(name)?;
            check_address(*address, 0, name)
        }
        RelocationTarget::Import(import) => check_import(import, relocation),
    }
}

fn check_import(import: &Import, relocation: &Relocation) -> Result<(), Inconsistency> {
    check_symbol(&import.name)?;
    if let Some(version) = &import.version {
        check_name(version, "symbol version", not_in_symbol)?;
    }
    if relocation.kind != RelocationKind::Absolute64 || relocation.addend != 0 {
        return Err(Inconsistency::ImportNotSlot {
            import: import.name.clone(),
            kind: relocation.kind,
            addend: relocation.addend,
        });
    }
    Ok(())
}

fn check_places(relocations: &[Relocation]) -> Result<(), Inconsistency> {
    let mut places: Vec<_> = relocations
        .iter()
        .map(|r| {
            (
                r.place.segment as u8,
                r.place.offset,
                r.kind.width(),
                r.place.segment,
            )
        })
        .collect();
    places.sort_unstable_by_key(|&(segment, offset, ..)| (segment, offset));
    for (&(_, start, width, first), &(_, offset, _, segment)) in
        places.iter().zip(places.iter().skip(1))
    {
        if first == segment && offset < start.saturating_add(width) {
            return Err(Inconsistency::OverlappingPlaces { segment, offset });
        }
    }
    Ok(())
}

fn check_address(address: LinkAddress, size: u64, what: &str) -> Result<(), Inconsistency> {
    match address.0.checked_add(size) {
        Some(end) if end <= ADDRESS_LIMIT => Ok(()),
        _ => Err(Inconsistency::Address {
            what: what.to_owned(),
            address: address.0,
            size,
        }),
    }
}

fn check_symbol(name: &str) -> Result<(), Inconsistency> {
    check_name(name, "symbol name", not_in_symbol)
}

/// Whether a character shows as what it is: no control, no mark of direction, nothing without
/// width. A name is shown to people, and must not forge what they see.
fn is_shown(c: char) -> bool {
    // After another character, so that a combining mark is one.
    let quoted = matches!(c, '\'' | '"' | '\\');
    quoted || ['x', c].iter().collect::<String>().escape_debug().count() == 2
}

/// `@` separates a version and `,` an address in the symbol names of the file.
fn not_in_symbol(c: char) -> bool {
    !is_shown(c) || c.is_whitespace() || c == '@' || c == ','
}

fn check_name(
    name: &str,
    what: &'static str,
    forbidden: fn(char) -> bool,
) -> Result<(), Inconsistency> {
    if name.is_empty() || name.len() > MAXIMUM_SYMBOL || name.chars().any(forbidden) {
        return Err(Inconsistency::Name {
            name: name.to_owned(),
            what,
        });
    }
    Ok(())
}
