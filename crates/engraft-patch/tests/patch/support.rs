//! Patches to test with: one that has everything, and any consistent one.

use engraft_patch::{
    BuildId, Concessions, Function, Image, ImageAddress, ImageRange, Import, LinkAddress, Missing,
    Object, OldPart, Patch, Relocation, RelocationKind, RelocationTarget, Segment, Trampoline,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

pub(crate) fn at(segment: Segment, offset: u64) -> ImageAddress {
    ImageAddress { segment, offset }
}

/// A patch of two objects with every kind of relocation, target and section.
pub(crate) fn example() -> Patch {
    let text = |offset| at(Segment::Text, offset);
    let object_target = |name: &str, address| RelocationTarget::Object {
        name: name.to_owned(),
        address: LinkAddress(address),
    };
    let relocation = |place, kind, target, addend| Relocation {
        place,
        kind,
        target,
        addend,
    };
    let import = Import {
        name: "memcpy".to_owned(),
        version: Some("GLIBC_2.14".to_owned()),
        weak: false,
    };
    let weak = Import {
        name: "maybe".to_owned(),
        version: None,
        weak: true,
    };
    let image = Image {
        text: vec![0x90; 64],
        read_only: b"some string\0some more".to_vec(),
        data: vec![0; 32],
        bss_size: 100,
        relocations: vec![
            relocation(
                text(1),
                RelocationKind::PcRelative32,
                object_target("helper", 0x1234),
                -4,
            ),
            relocation(
                text(8),
                RelocationKind::PcRelative32,
                RelocationTarget::Image(at(Segment::ReadOnly, 12)),
                -4,
            ),
            relocation(
                text(12),
                RelocationKind::Absolute32,
                object_target("table", 0x4000),
                8,
            ),
            relocation(
                text(16),
                RelocationKind::Absolute32Signed,
                object_target("table", 0x4000),
                -8,
            ),
            relocation(
                text(24),
                RelocationKind::PcRelative64,
                RelocationTarget::Image(at(Segment::Data, 40)),
                0,
            ),
            relocation(
                at(Segment::Data, 0),
                RelocationKind::Absolute64,
                RelocationTarget::Import(import),
                0,
            ),
            relocation(
                at(Segment::Data, 8),
                RelocationKind::Absolute64,
                RelocationTarget::Import(weak),
                0,
            ),
            relocation(
                at(Segment::Data, 16),
                RelocationKind::Absolute64,
                RelocationTarget::Image(text(0)),
                0,
            ),
        ],
        unwind: Some(ImageRange {
            start: at(Segment::ReadOnly, 4),
            size: 8,
        }),
        address_escapes: true,
    };
    let cold = OldPart {
        address: LinkAddress(0x1000),
        code: vec![0xcc; 9],
    };
    let entry = OldPart {
        address: LinkAddress(0x2000),
        code: vec![0x55; 32],
    };
    let function = Function {
        name: "parse".to_owned(),
        parts: vec![entry, cold],
        new_entry: text(0),
        new_size: 40,
        trampoline: Trampoline {
            entry: text(48),
            size: 10,
        },
    };
    let first = Object {
        build_id: BuildId::new(&[0xab; 20]).unwrap(),
        file_name: "libexample.so.1".to_owned(),
        functions: vec![function.clone()],
        image,
    };
    let mut second = first.clone();
    second.build_id = BuildId::new(&[0xcd; 20]).unwrap();
    second.image = Image {
        text: vec![0xc3; 58],
        relocations: Vec::new(),
        ..Image::default()
    };
    Patch {
        name: "CVE-2024-1".to_owned(),
        objects: vec![first, second],
        concessions: Concessions {
            missing: vec![Missing {
                name: "elsewhere".to_owned(),
                source_file: "tools/other.c".to_owned(),
            }],
            accepted_layouts: vec!["struct example".to_owned()],
        },
    }
}

/// Gives changed bytes the digest and length that a writer would have given them.
pub(crate) fn reseal(file: &mut [u8]) {
    const LENGTH: usize = 80;
    const DIGEST: usize = 88;
    let length = (file.len() as u64).to_le_bytes();
    file[LENGTH..DIGEST].copy_from_slice(&length);
    file[DIGEST..DIGEST + 32].fill(0);
    let digest = Sha256::digest(&*file);
    file[DIGEST..DIGEST + 32].copy_from_slice(&digest);
}

fn symbol() -> impl Strategy<Value = String> {
    "[A-Za-z_.$é][A-Za-z0-9_.$<>:é]{0,20}"
}

fn kind() -> impl Strategy<Value = RelocationKind> {
    prop_oneof![
        Just(RelocationKind::Absolute64),
        Just(RelocationKind::Absolute32),
        Just(RelocationKind::Absolute32Signed),
        Just(RelocationKind::PcRelative32),
        Just(RelocationKind::PcRelative64),
    ]
}

fn segment() -> impl Strategy<Value = Segment> {
    prop_oneof![
        Just(Segment::Text),
        Just(Segment::ReadOnly),
        Just(Segment::Data)
    ]
}

fn import() -> impl Strategy<Value = Import> {
    (symbol(), option::of(symbol()), any::<bool>()).prop_map(|(name, version, weak)| Import {
        name,
        version,
        weak,
    })
}

/// Kind, target and addend; targets in the image are fractions of its segments' sizes.
#[derive(Debug, Clone)]
enum Wish {
    Image(RelocationKind, Segment, u64, i64),
    Object(RelocationKind, String, u64, i64),
    Import(Import),
}

fn wish() -> impl Strategy<Value = Wish> {
    prop_oneof![
        (kind(), segment(), any::<u64>(), any::<i64>())
            .prop_map(|(k, s, o, a)| Wish::Image(k, s, o, a)),
        (kind(), symbol(), 0..1u64 << 47, any::<i64>())
            .prop_map(|(k, n, o, a)| Wish::Object(k, n, o, a)),
        import().prop_map(Wish::Import),
    ]
}

fn image() -> impl Strategy<Value = Image> {
    let bytes = || vec(any::<u8>(), 0..200);
    (
        vec(any::<u8>(), 1..400),
        bytes(),
        bytes(),
        0u64..1000,
        any::<bool>(),
        vec((wish(), segment()), 0..12),
        option::of(any::<(u64, u64)>()),
    )
        .prop_map(
            |(text, read_only, data, bss_size, address_escapes, wishes, unwind)| {
                let unwind = unwind
                    .filter(|_| !read_only.is_empty())
                    .map(|(offset, size)| {
                        let (offset, size) = inside(offset, size, read_only.len() as u64);
                        ImageRange {
                            start: at(Segment::ReadOnly, offset),
                            size,
                        }
                    });
                let mut image = Image {
                    text,
                    read_only,
                    data,
                    bss_size,
                    relocations: Vec::new(),
                    unwind,
                    address_escapes,
                };
                let mut next = [0u64; 3];
                let mut relocations = Vec::new();
                for (wish, segment) in wishes {
                    let (kind, target, addend) = match wish {
                        Wish::Image(kind, segment, offset, addend) => {
                            let offset = offset % (image.size(segment) + 1);
                            (kind, RelocationTarget::Image(at(segment, offset)), addend)
                        }
                        Wish::Object(kind, name, address, addend) => {
                            let address = LinkAddress(address);
                            (kind, RelocationTarget::Object { name, address }, addend)
                        }
                        Wish::Import(import) => (
                            RelocationKind::Absolute64,
                            RelocationTarget::Import(import),
                            0,
                        ),
                    };
                    let offset = next[segment as usize];
                    if offset + kind.width() <= image.bytes(segment).len() as u64 {
                        next[segment as usize] += kind.width();
                        let place = at(segment, offset);
                        relocations.push(Relocation {
                            place,
                            kind,
                            target,
                            addend,
                        });
                    }
                }
                // The file keeps them by segment; their order means nothing.
                relocations.sort_by_key(|r| r.place.segment as usize);
                image.relocations = relocations;
                image
            },
        )
}

/// Some piece, not empty, of `length` bytes.
fn inside(offset: u64, size: u64, length: u64) -> (u64, u64) {
    let offset = offset % length;
    (offset, 1 + size % (length - offset))
}

fn object() -> impl Strategy<Value = Object> {
    let functions = vec(
        (
            symbol(),
            // The first one is the entry, where there is room for a jump.
            (vec(any::<u8>(), 5..40), vec(vec(any::<u8>(), 1..40), 0..3)),
            any::<(u64, u64)>(),
            any::<(u64, u64)>(),
        ),
        1..5,
    );
    (
        vec(any::<u8>(), 1..=32),
        "[a-z][a-z0-9. -]{0,20}",
        functions,
        image(),
    )
        .prop_map(|(build_id, file_name, functions, image)| {
            let mut address = 0x1000;
            let mut place = |code: Vec<u8>| {
                let part = OldPart {
                    address: LinkAddress(address),
                    code,
                };
                address += part.code.len() as u64;
                part
            };
            let text = image.text.len() as u64;
            let functions = functions
                .into_iter()
                .map(|(name, (entry, others), new, trampoline)| {
                    let (offset, new_size) = inside(new.0, new.1, text);
                    let (entry_offset, size) = inside(trampoline.0, trampoline.1, text);
                    let parts = [entry].into_iter().chain(others);
                    Function {
                        name,
                        parts: parts.map(&mut place).collect(),
                        new_entry: at(Segment::Text, offset),
                        new_size,
                        trampoline: Trampoline {
                            entry: at(Segment::Text, entry_offset),
                            size,
                        },
                    }
                })
                .collect();
            let build_id = BuildId::new(&build_id).unwrap();
            Object {
                build_id,
                file_name,
                functions,
                image,
            }
        })
}

/// Any consistent patch.
pub(crate) fn patch() -> impl Strategy<Value = Patch> {
    ("[A-Za-z0-9._-]{1,63}", vec(object(), 1..4)).prop_map(|(name, mut objects)| {
        objects.sort_by_key(|a| a.build_id);
        objects.dedup_by(|a, b| a.build_id == b.build_id);
        Patch {
            name,
            objects,
            concessions: Concessions::default(),
        }
    })
}
