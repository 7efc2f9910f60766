//! The manifest: the part of a patch file that people read. Its fields mirror the model; addresses
//! are hexadecimal strings, as in `nm` and `readelf`.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::model::{
    BuildId, Concessions, Function, ImageAddress, Import, LinkAddress, Object, Patch,
    RelocationTarget, Segment,
};

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    pub(super) format_version: u32,
    pub(super) name: String,
    #[serde(default, skip_serializing_if = "Concessions::is_empty")]
    pub(super) concessions: Concessions,
    pub(super) objects: Vec<ObjectEntry>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ObjectEntry {
    pub(super) build_id: String,
    pub(super) file_name: String,
    pub(super) address_escapes: bool,
    /// Offset of the call frame information in the read-only section, and size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) unwind: Option<Range>,
    pub(super) functions: Vec<FunctionEntry>,
    /// How many there are, so that relocations hidden by a broken section header are noticed.
    pub(super) relocations: usize,
    /// Undefined symbol of this file → what it stands for.
    pub(super) references: BTreeMap<String, Reference>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FunctionEntry {
    pub(super) name: String,
    /// Offset in the text section, and size.
    pub(super) new: Range,
    /// The same of the trampoline.
    pub(super) trampoline: Range,
    /// Link-time address and size of each part, the entry first.
    pub(super) old: Vec<Range>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Range {
    pub(super) start: Hex,
    pub(super) size: u64,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub(super) enum Reference {
    Object {
        name: String,
        address: Hex,
    },
    Import {
        name: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<String>,
        weak: bool,
    },
}

impl Manifest {
    pub(super) fn of(patch: &Patch, format_version: u32) -> Self {
        let objects = patch
            .objects
            .iter()
            .enumerate()
            .map(|(n, o)| ObjectEntry::of(n, o));
        Self {
            format_version,
            name: patch.name.clone(),
            concessions: patch.concessions.clone(),
            objects: objects.collect(),
        }
    }
}

impl ObjectEntry {
    fn of(index: usize, object: &Object) -> Self {
        let targets = object
            .image
            .relocations
            .iter()
            .map(|relocation| &relocation.target);
        let references = targets.filter_map(|target| Reference::of(index, target));
        Self {
            build_id: object.build_id.to_string(),
            file_name: object.file_name.clone(),
            address_escapes: object.image.address_escapes,
            unwind: object
                .image
                .unwind
                .map(|unwind| Range::of(unwind.start, unwind.size)),
            functions: object.functions.iter().map(FunctionEntry::of).collect(),
            relocations: object.image.relocations.len(),
            references: references.collect(),
        }
    }
}

impl FunctionEntry {
    fn of(function: &Function) -> Self {
        let old = function.parts.iter().map(|part| Range {
            start: Hex(part.address.0),
            size: part.code.len() as u64,
        });
        Self {
            name: function.name.clone(),
            new: Range::of(function.new_entry, function.new_size),
            trampoline: Range::of(function.trampoline.entry, function.trampoline.size),
            old: old.collect(),
        }
    }
}

impl Range {
    /// A piece of a segment that the field's meaning says.
    fn of(start: ImageAddress, size: u64) -> Self {
        Self {
            start: Hex(start.offset),
            size,
        }
    }

    pub(super) fn start_in(self, segment: Segment) -> ImageAddress {
        ImageAddress {
            segment,
            offset: self.start.0,
        }
    }
}

impl Reference {
    /// The symbol for a target outside the image, and what the table says of it.
    fn of(index: usize, target: &RelocationTarget) -> Option<(String, Self)> {
        match target {
            RelocationTarget::Image(_) => None,
            RelocationTarget::Object { name, address } => Some((
                object_symbol(index, name, *address),
                Self::Object {
                    name: name.clone(),
                    address: Hex(address.0),
                },
            )),
            RelocationTarget::Import(import) => {
                let Import {
                    name,
                    version,
                    weak,
                } = import.clone();
                Some((
                    import_symbol(index, import),
                    Self::Import {
                        name,
                        version,
                        weak,
                    },
                ))
            }
        }
    }

    pub(super) fn target(&self) -> RelocationTarget {
        match self {
            Self::Object { name, address } => RelocationTarget::Object {
                name: name.clone(),
                address: LinkAddress(address.0),
            },
            Self::Import {
                name,
                version,
                weak,
            } => RelocationTarget::Import(Import {
                name: name.clone(),
                version: version.clone(),
                weak: *weak,
            }),
        }
    }
}

/// The undefined symbol that stands for something in the old binary of object number `index`. One
/// name for each target, because the rules for names keep the separators out of them.
pub(super) fn object_symbol(index: usize, name: &str, address: LinkAddress) -> String {
    format!(".engraft.sym.{index}.{name},{:#x}", address.0)
}

/// The undefined symbol that stands for an import.
pub(super) fn import_symbol(index: usize, import: &Import) -> String {
    let Import {
        name,
        version,
        weak,
    } = import;
    let version = version
        .as_ref()
        .map(|v| format!("@{v}"))
        .unwrap_or_default();
    let weak = if *weak { ",weak" } else { "" };
    format!(".engraft.import.{index}.{name}{version}{weak}")
}

/// Reads a build-id as [`BuildId`] displays it.
pub(super) fn parse_build_id(text: &str) -> Option<BuildId> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() || text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    let bytes: Option<Vec<u8>> = pairs
        .iter()
        .map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?))
        .collect();
    BuildId::new(&bytes?)
}

/// A number that reads as `"0x1f40"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hex(pub(super) u64);

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:#x}", self.0))
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.strip_prefix("0x")
            .filter(|digits| !digits.starts_with('+'))
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
            .map(Self)
            .ok_or_else(|| D::Error::custom(format!("{text:?} is no hexadecimal number (0x...)")))
    }
}
