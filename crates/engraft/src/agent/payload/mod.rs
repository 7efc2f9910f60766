//! The payload: a patch encoded for the agent, which keeps it in the target.

mod layout;

use engraft_abi::{
    BuildIdBytes, FlatWriter, PayloadFunction, PayloadHeader, PayloadImport, PayloadObject,
    PayloadPart, PayloadRelocation, STUB_SIZE, VERSION, WORDS_SIZE, flags, relocation_kind,
    relocation_target,
};
use engraft_patch::{
    Function, Import, Object, Patch, Relocation, RelocationKind, RelocationTarget,
};
use zerocopy::FromZeros;

use layout::ImageLayout;
pub(crate) use layout::image_length;

use crate::error::TooLarge;

/// `int3`: fills the room for code until the agent writes it.
const TRAP: u8 = 0xcc;

/// The patch as a payload.
pub(crate) fn encode(patch: &Patch) -> Result<Vec<u8>, TooLarge> {
    let mut writer = FlatWriter::with_header::<PayloadHeader>();
    let mut header = PayloadHeader::new_zeroed();
    header.version = VERSION;
    header.name = writer.bytes(patch.name.as_bytes());
    let mut objects: Vec<_> = patch
        .objects
        .iter()
        .map(|object| encode_object(&mut writer, object))
        .collect();
    if patch.concessions.is_partial() {
        objects
            .iter_mut()
            .for_each(|object| object.flags |= flags::PARTIAL);
    }
    header.objects = writer.table(&objects);
    header.length = writer.length();
    // There is memory for any patch that is not too large.
    writer.finish(&header).map_err(|_| TooLarge {
        name: patch.name.clone(),
    })
}

fn encode_object(writer: &mut FlatWriter, object: &Object) -> PayloadObject {
    let layout = ImageLayout::of(object);
    let functions: Vec<_> = (0..)
        .zip(&object.functions)
        .map(|(index, function)| encode_function(writer, &layout, index, function))
        .collect();
    let image = &object.image;
    let mut text = image.text.clone();
    let stubs_end = layout.stubs + STUB_SIZE * functions.len() as u64;
    match usize::try_from(stubs_end) {
        Ok(end) => text.resize(end, TRAP),
        Err(_) => writer.fail_too_large(),
    }
    let unwind = image.unwind;
    let unwind = unwind.map(|unwind| (layout.offset(unwind.start), unwind.size));
    let (unwind_offset, unwind_size) = unwind.unwrap_or_default();
    let mut imports = Vec::new();
    let relocations: Vec<_> = image
        .relocations
        .iter()
        .map(|relocation| encode_relocation(&layout, relocation, &mut imports))
        .collect();
    let imports: Vec<_> = imports
        .into_iter()
        .map(
            |Import {
                 name,
                 version,
                 weak,
             }| PayloadImport {
                name: writer.bytes(name.as_bytes()),
                version: writer.bytes(version.unwrap_or_default().as_bytes()),
                weak: weak.into(),
            },
        )
        .collect();
    PayloadObject {
        build_id: build_id_bytes(object.build_id.as_bytes()),
        file_name: writer.bytes(object.file_name.as_bytes()),
        functions: writer.table(&functions),
        text: writer.bytes(&text),
        read_only: writer.bytes(&image.read_only),
        data: writer.bytes(&image.data),
        relocations: writer.table(&relocations),
        imports: writer.table(&imports),
        bss_size: (layout.end - layout.segments.data).saturating_sub(image.data.len() as u64),
        unwind_offset,
        unwind_size,
        flags: if image.address_escapes {
            flags::ADDRESS_ESCAPES
        } else {
            0
        },
    }
}

/// A build-id in the form that the agent compares.
pub(crate) fn build_id_bytes(id: &[u8]) -> BuildIdBytes {
    let mut bytes = [0; 32];
    bytes.iter_mut().zip(id).for_each(|(to, from)| *to = *from);
    BuildIdBytes {
        bytes,
        length: id.len() as u64,
    }
}

fn encode_function(
    writer: &mut FlatWriter,
    layout: &ImageLayout,
    index: u64,
    function: &Function,
) -> PayloadFunction {
    let parts: Vec<_> = function
        .parts
        .iter()
        .map(|part| PayloadPart {
            address: part.address.0,
            code: writer.bytes(&part.code),
        })
        .collect();
    PayloadFunction {
        name: writer.bytes(function.name.as_bytes()),
        parts: writer.table(&parts),
        new_offset: layout.offset(function.new_entry),
        new_size: function.new_size,
        // Every patch that was read has a site in each function.
        site_offset: function.site().map_or(0, |site| site.start),
        trampoline_offset: layout.offset(function.trampoline.entry),
        trampoline_size: function.trampoline.size,
        stub_offset: layout.stubs + index * STUB_SIZE,
        words_offset: layout.words + index * WORDS_SIZE,
    }
}

fn encode_relocation(
    layout: &ImageLayout,
    relocation: &Relocation,
    imports: &mut Vec<Import>,
) -> PayloadRelocation {
    let (target, value) = match &relocation.target {
        RelocationTarget::Image(address) => (relocation_target::IMAGE, layout.offset(*address)),
        RelocationTarget::Object { address, .. } => (relocation_target::OBJECT, address.0),
        RelocationTarget::Import(import) => {
            let index = imports
                .iter()
                .position(|known| known == import)
                .unwrap_or_else(|| {
                    imports.push(import.clone());
                    imports.len() - 1
                });
            (relocation_target::IMPORT, index as u64)
        }
    };
    let kind = match relocation.kind {
        RelocationKind::Absolute64 => relocation_kind::ABSOLUTE_64,
        RelocationKind::Absolute32 => relocation_kind::ABSOLUTE_32,
        RelocationKind::Absolute32Signed => relocation_kind::ABSOLUTE_32_SIGNED,
        RelocationKind::PcRelative32 => relocation_kind::PC_RELATIVE_32,
        RelocationKind::PcRelative64 => relocation_kind::PC_RELATIVE_64,
    };
    let place = layout.offset(relocation.place);
    PayloadRelocation {
        place,
        kind,
        target,
        value,
        addend: relocation.addend,
    }
}

#[cfg(test)]
mod tests {
    use engraft_patch::{
        BuildId, Concessions, Image, ImageAddress, ImageRange, LinkAddress, OldPart, Segment,
        Trampoline,
    };
    use zerocopy::IntoBytes;

    use super::*;

    fn at(segment: Segment, offset: u64) -> ImageAddress {
        ImageAddress { segment, offset }
    }

    /// A patch of two functions that look the same.
    fn patch() -> Patch {
        let relocation = |target| Relocation {
            place: at(Segment::Data, 8),
            kind: RelocationKind::Absolute64,
            target,
            addend: 0,
        };
        let import = Import {
            name: "puts".into(),
            version: None,
            weak: false,
        };
        let function = Function {
            name: "f".into(),
            parts: vec![OldPart {
                address: LinkAddress(0x1000),
                code: vec![0xf3, 0x0f, 0x1e, 0xfa, 0x90, 0x90, 0x90, 0x90, 0xc3],
            }],
            new_entry: at(Segment::Text, 16),
            new_size: 4,
            trampoline: Trampoline {
                entry: at(Segment::Text, 2),
                size: 14,
            },
        };
        let image = Image {
            text: vec![0x90; 20],
            data: vec![0; 16],
            bss_size: 20,
            relocations: vec![
                relocation(RelocationTarget::Import(import.clone())),
                relocation(RelocationTarget::Import(import)),
                relocation(RelocationTarget::Image(at(Segment::ReadOnly, 4))),
            ],
            ..Image::default()
        };
        Patch {
            name: "P1".into(),
            objects: vec![Object {
                build_id: BuildId::new(&[7; 20]).unwrap(),
                file_name: "victim".into(),
                functions: vec![function.clone(), function],
                image,
            }],
            concessions: Concessions::default(),
        }
    }

    /// What the agent reads: from an aligned mapping.
    fn with_payload(patch: &Patch, look: impl FnOnce(&[u8], &PayloadObject)) {
        let buffer = encode(patch).unwrap();
        let mut aligned = vec![0_u64; buffer.len().div_ceil(8)];
        aligned.as_mut_bytes()[..buffer.len()].copy_from_slice(&buffer);
        let payload = aligned.as_bytes();
        let (header, _) = zerocopy::Ref::<_, PayloadHeader>::from_prefix(payload).unwrap();
        assert_eq!(header.name.of(payload), Some(b"P1".as_slice()));
        let objects = header.objects.of::<PayloadObject>(payload).unwrap();
        look(payload, &objects[0]);
    }

    #[test]
    fn a_payload_says_what_the_patch_says() {
        with_payload(&patch(), |payload, object| {
            let function = &object.functions.of::<PayloadFunction>(payload).unwrap()[0];
            assert_eq!((function.new_offset, function.new_size), (16, 4));
            let trampoline = (function.trampoline_offset, function.trampoline_size);
            assert_eq!((function.site_offset, trampoline), (4, (2, 14)));
            let part = &function.parts.of::<PayloadPart>(payload).unwrap()[0];
            assert_eq!(
                (part.address, part.code.of(payload).map(<[u8]>::len)),
                (0x1000, Some(9))
            );
            let imports = object.imports.of::<PayloadImport>(payload);
            assert_eq!(imports.unwrap().len(), 1);
            let relocations = object.relocations.of::<PayloadRelocation>(payload).unwrap();
            assert_eq!(
                relocations.iter().map(|it| it.value).collect::<Vec<_>>(),
                [0, 0, 4096 + 4]
            );
            // Read-only is empty, so data shares its page number.
            assert_eq!(relocations[0].place, 4096 + 8);
            assert_eq!((object.unwind_offset, object.unwind_size), (0, 0));
        });
    }

    #[test]
    fn each_function_has_room_for_its_stub_and_words() {
        with_payload(&patch(), |payload, object| {
            let functions = object.functions.of::<PayloadFunction>(payload).unwrap();
            let rooms = functions.iter().map(|it| (it.stub_offset, it.words_offset));
            // Text has 20 bytes, data 16 and 20 zeroes.
            assert_eq!(
                rooms.collect::<Vec<_>>(),
                [(32, 4096 + 48), (32 + 48, 4096 + 64)]
            );
            let text = object.text.of(payload).unwrap();
            assert_eq!(text[..20], [0x90; 20]);
            assert_eq!(text[20..], [TRAP; 12 + 2 * 48]);
            assert_eq!((object.data.length, object.bss_size), (16, 80 - 16));
        });
        assert_eq!(image_length(&patch().objects[0]), 2 * 4096);
    }

    #[test]
    fn stubs_may_need_another_page_and_everything_behind_moves() {
        let mut patch = patch();
        let image = &mut patch.objects[0].image;
        image.text = vec![0x90; 4096 - 48];
        image.read_only = vec![0; 64];
        image.unwind = Some(ImageRange {
            start: at(Segment::ReadOnly, 16),
            size: 40,
        });
        with_payload(&patch, |payload, object| {
            let functions = object.functions.of::<PayloadFunction>(payload).unwrap();
            let stubs = functions.iter().map(|it| it.stub_offset);
            assert_eq!(stubs.collect::<Vec<_>>(), [4096 - 48, 4096]);
            assert_eq!(object.text.length, 4096 + 48);
            assert_eq!((object.unwind_offset, object.unwind_size), (8192 + 16, 40));
            assert_eq!(functions[0].words_offset, 3 * 4096 + 48);
        });
        assert_eq!(image_length(&patch.objects[0]), 4 * 4096);
    }
}
