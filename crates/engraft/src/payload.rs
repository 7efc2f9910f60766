//! From the patch file's model to the flat payload that the agent keeps in the target.

use engraft_abi::{
    BuildIdBytes, Bytes, PayloadFunction, PayloadHeader, PayloadImport, PayloadObject, PayloadPart,
    PayloadRelocation, Table, VERSION, flags, relocation_kind, relocation_target,
};
use engraft_patch::{
    Function, Image, ImageAddress, Import, Object, Patch, Relocation, RelocationKind,
    RelocationTarget, Segment,
};
use zerocopy::{FromZeros, Immutable, IntoBytes};

/// Images are laid out in pages, as the agent does it.
const PAGE: u64 = 4096;

/// Why a patch does not fit into a payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("patch '{name}' is larger than 4 GiB")]
pub struct TooLarge {
    /// The patch.
    pub name: String,
}

/// A flat buffer under construction; tables are 8-byte aligned.
#[derive(Default)]
struct Writer {
    buffer: Vec<u8>,
    too_large: bool,
}

impl Writer {
    fn number(&mut self, value: usize) -> u32 {
        u32::try_from(value).unwrap_or_else(|_| {
            self.too_large = true;
            0
        })
    }

    fn bytes(&mut self, bytes: &[u8]) -> Bytes {
        let offset = self.number(self.buffer.len());
        let length = self.number(bytes.len());
        self.buffer.extend_from_slice(bytes);
        Bytes { offset, length }
    }

    fn table<T: IntoBytes + Immutable>(&mut self, records: &[T]) -> Table {
        self.buffer.resize(self.buffer.len().next_multiple_of(8), 0);
        let count = self.number(records.len());
        let Bytes { offset, .. } = self.bytes(records.as_bytes());
        Table { offset, count }
    }
}

/// The patch as a payload.
pub(crate) fn encode(patch: &Patch) -> Result<Vec<u8>, TooLarge> {
    let mut writer = Writer::default();
    let mut header = PayloadHeader::new_zeroed();
    writer.table(std::slice::from_ref(&header));
    header.version = VERSION;
    header.name = writer.bytes(patch.name.as_bytes());
    let objects: Vec<_> = patch
        .objects
        .iter()
        .map(|object| encode_object(&mut writer, object))
        .collect();
    header.objects = writer.table(&objects);
    header.length = writer.buffer.len() as u64;
    let Writer {
        mut buffer,
        too_large,
    } = writer;
    if too_large {
        return Err(TooLarge {
            name: patch.name.clone(),
        });
    }
    let start = size_of::<PayloadHeader>();
    buffer.splice(..start, header.as_bytes().iter().copied());
    Ok(buffer)
}

fn encode_object(writer: &mut Writer, object: &Object) -> PayloadObject {
    let functions: Vec<_> = object
        .functions
        .iter()
        .map(|function| encode_function(writer, function))
        .collect();
    let image = &object.image;
    let mut imports = Vec::new();
    let relocations: Vec<_> = image
        .relocations
        .iter()
        .map(|relocation| encode_relocation(image, relocation, &mut imports))
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
        text: writer.bytes(&image.text),
        read_only: writer.bytes(&image.read_only),
        data: writer.bytes(&image.data),
        relocations: writer.table(&relocations),
        imports: writer.table(&imports),
        bss_size: image.bss_size,
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

fn encode_function(writer: &mut Writer, function: &Function) -> PayloadFunction {
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
        // New code is in the text, which begins where the image begins.
        new_offset: function.new_entry.offset,
        new_size: function.new_size,
    }
}

fn encode_relocation(
    image: &Image,
    relocation: &Relocation,
    imports: &mut Vec<Import>,
) -> PayloadRelocation {
    let (target, value) = match &relocation.target {
        RelocationTarget::Image(address) => {
            (relocation_target::IMAGE, image_offset(image, *address))
        }
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
    let place = image_offset(image, relocation.place);
    PayloadRelocation {
        place,
        kind,
        target,
        value,
        addend: relocation.addend,
    }
}

/// Where a place is, from the start of the image in memory.
fn image_offset(image: &Image, address: ImageAddress) -> u64 {
    let read_only = (image.text.len() as u64).next_multiple_of(PAGE);
    let data = (read_only + image.read_only.len() as u64).next_multiple_of(PAGE);
    let segment = match address.segment {
        Segment::Text => 0,
        Segment::ReadOnly => read_only,
        Segment::Data => data,
    };
    segment.wrapping_add(address.offset)
}

#[cfg(test)]
mod tests {
    use engraft_patch::{BuildId, LinkAddress, OldPart};

    use super::*;

    #[test]
    fn a_payload_says_what_the_patch_says() {
        let relocation = |target| Relocation {
            place: ImageAddress {
                segment: Segment::Data,
                offset: 8,
            },
            kind: RelocationKind::Absolute64,
            target,
            addend: 0,
        };
        let import = Import {
            name: "puts".into(),
            version: None,
            weak: false,
        };
        let patch = Patch {
            name: "P1".into(),
            objects: vec![Object {
                build_id: BuildId::new(&[7; 20]).unwrap(),
                file_name: "victim".into(),
                functions: vec![Function {
                    name: "f".into(),
                    parts: vec![OldPart {
                        address: LinkAddress(0x1000),
                        code: vec![0xc3; 9],
                    }],
                    new_entry: ImageAddress {
                        segment: Segment::Text,
                        offset: 16,
                    },
                    new_size: 4,
                }],
                image: Image {
                    text: vec![0x90; 20],
                    data: vec![0; 16],
                    relocations: vec![
                        relocation(RelocationTarget::Import(import.clone())),
                        relocation(RelocationTarget::Import(import)),
                        relocation(RelocationTarget::Image(ImageAddress {
                            segment: Segment::ReadOnly,
                            offset: 4,
                        })),
                    ],
                    ..Image::default()
                },
            }],
        };
        let buffer = encode(&patch).unwrap();
        // As the agent reads it: from an aligned mapping.
        let mut aligned = vec![0_u64; buffer.len().div_ceil(8)];
        let payload = aligned.as_mut_bytes();
        payload[..buffer.len()].copy_from_slice(&buffer);
        let payload = aligned.as_bytes();
        let (header, _) = zerocopy::Ref::<_, PayloadHeader>::from_prefix(payload).unwrap();
        assert_eq!(header.name.of(payload), Some(b"P1".as_slice()));
        let object = &header.objects.of::<PayloadObject>(payload).unwrap()[0];
        let function = &object.functions.of::<PayloadFunction>(payload).unwrap()[0];
        assert_eq!((function.new_offset, function.new_size), (16, 4));
        let part = &function.parts.of::<PayloadPart>(payload).unwrap()[0];
        assert_eq!(
            (part.address, part.code.of(payload)),
            (0x1000, Some([0xc3; 9].as_slice()))
        );
        assert_eq!(
            object.imports.of::<PayloadImport>(payload).unwrap().len(),
            1
        );
        let relocations = object.relocations.of::<PayloadRelocation>(payload).unwrap();
        assert_eq!(
            relocations.iter().map(|it| it.value).collect::<Vec<_>>(),
            [0, 0, 4096 + 4]
        );
        // Read-only is empty, so data shares its page number.
        assert_eq!(relocations[0].place, 4096 + 8);
    }
}
