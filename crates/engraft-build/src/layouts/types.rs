//! The types of an object that have a layout, by name.

use std::collections::{BTreeMap, BTreeSet};

use gimli::{DwTag, constants};

use super::debug_info::{DebugEntry, DebugInfo};

/// How deep types are followed into each other.
const DEPTH: usize = 32;

/// What something is made of, as far as memory is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Whole numbers: the sign is the reader's business.
    Integer {
        name: String,
        size: u64,
    },
    /// Other basic types.
    Basic {
        name: String,
        size: u64,
    },
    /// Something with a name whose layout is compared on its own.
    Named {
        name: String,
        size: u64,
    },
    Pointer {
        to: String,
    },
    Array {
        of: Box<Shape>,
        counts: Vec<Option<u64>>,
    },
    Nothing,
}

/// A structure, union, class or enumeration.
#[derive(Debug, Clone)]
pub(crate) struct TypeLayout {
    pub(crate) tag: DwTag,
    pub(crate) size: u64,
    pub(crate) file: String,
    pub(crate) line: u64,
    /// With those of anonymous structures and unions inside.
    pub(crate) members: Vec<Member>,
    pub(crate) enumerators: BTreeMap<String, i64>,
}

#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) name: String,
    /// From the start of the outermost structure, in bits.
    pub(crate) start: u64,
    pub(crate) bits: u64,
    pub(crate) shape: Shape,
}

/// Where a type is used.
#[derive(Debug, Clone, Default)]
pub(crate) struct Uses {
    /// Functions with a variable, parameter or result that holds it or leads to it, and types with
    /// such a member.
    pub(crate) functions: BTreeSet<String>,
    /// It is a local variable of a function, itself.
    pub(crate) is_local: bool,
    /// Anything but such variables, and parameters of functions that only this object knows, holds
    /// it or leads to it.
    pub(crate) is_elsewhere: bool,
}

/// What an object says of its types.
#[derive(Debug, Default)]
pub(crate) struct Types {
    pub(crate) layouts: BTreeMap<String, TypeLayout>,
    pub(crate) uses: BTreeMap<String, Uses>,
    /// Variables that outlive a call, those inside of functions with the function's name in front.
    pub(crate) variables: BTreeMap<String, (Shape, String, u64)>,
}

impl Types {
    pub(crate) fn of(info: &DebugInfo) -> Self {
        let mut types = Self::default();
        for (index, entry) in info.entries.iter().enumerate() {
            if is_aggregate(entry.tag) && !entry.is_declaration {
                let name = name_of(info, index);
                if !name.is_empty() {
                    types
                        .layouts
                        .entry(name)
                        .or_insert_with(|| layout(info, entry, index));
                }
            }
            types.note_use(info, index, entry);
        }
        types
    }

    fn note_use(&mut self, info: &DebugInfo, index: usize, entry: &DebugEntry) {
        let is_variable = entry.tag == constants::DW_TAG_variable;
        let is_parameter = entry.tag == constants::DW_TAG_formal_parameter;
        let is_function = entry.tag == constants::DW_TAG_subprogram;
        let is_member = entry.tag == constants::DW_TAG_member;
        if !(is_variable || is_parameter || is_function || is_member) {
            return;
        }
        let Some(type_of) = info.type_of(index) else {
            return;
        };
        let function = if is_function {
            Some(index)
        } else {
            function_of(info, index)
        };
        let outlives = is_variable && (function.is_none() || is_static(info, index));
        if outlives && !entry.name.is_empty() {
            let scope = function.map(|function| format!("{}::", function_name(info, function)));
            let name = format!("{}{}", scope.unwrap_or_default(), entry.name);
            let shape = shape(info, Some(type_of), DEPTH);
            self.variables
                .insert(name, (shape, entry.file.clone(), entry.line));
        }
        let is_private = function
            .and_then(|function| info.entry(function))
            .is_some_and(|function| !function.is_external);
        for (name, by_pointer) in reached(info, type_of) {
            let uses = self.uses.entry(name).or_default();
            uses.functions
                .extend(function.map(|function| function_name(info, function)));
            let holder = entry.parent.filter(|_| is_member);
            let holder = holder.map(|holder| name_of(info, holder));
            uses.functions
                .extend(holder.filter(|name| !name.is_empty()));
            let is_local = is_variable && !outlives && !by_pointer;
            uses.is_local |= is_local;
            uses.is_elsewhere |= !(is_local || is_parameter && is_private);
        }
    }
}

fn is_aggregate(tag: DwTag) -> bool {
    is_structure(tag) || tag == constants::DW_TAG_enumeration_type
}

fn is_structure(tag: DwTag) -> bool {
    [
        constants::DW_TAG_structure_type,
        constants::DW_TAG_union_type,
        constants::DW_TAG_class_type,
    ]
    .contains(&tag)
}

fn is_transparent(tag: DwTag) -> bool {
    [
        constants::DW_TAG_typedef,
        constants::DW_TAG_const_type,
        constants::DW_TAG_volatile_type,
        constants::DW_TAG_restrict_type,
        constants::DW_TAG_atomic_type,
    ]
    .contains(&tag)
}

fn is_pointer(tag: DwTag) -> bool {
    [
        constants::DW_TAG_pointer_type,
        constants::DW_TAG_reference_type,
        constants::DW_TAG_rvalue_reference_type,
        constants::DW_TAG_ptr_to_member_type,
    ]
    .contains(&tag)
}

/// `struct conn`; for one without a name of its own, what it is defined as or where it is.
fn name_of(info: &DebugInfo, index: usize) -> String {
    let Some(entry) = info.entry(index) else {
        return String::new();
    };
    let mut scopes = Vec::new();
    let mut parent = entry.parent;
    while let Some(scope) = parent.and_then(|parent| info.entry(parent)) {
        if !scope.name.is_empty() && scope.tag != constants::DW_TAG_compile_unit {
            scopes.push(scope.name.clone());
        }
        parent = scope.parent;
    }
    let own = match entry.name.as_str() {
        "" => match defined_as(info, index) {
            Some(name) => return name,
            None => return String::new(),
        },
        name => name,
    };
    scopes.reverse();
    scopes.push(own.to_owned());
    let word = match entry.tag {
        constants::DW_TAG_structure_type => "struct",
        constants::DW_TAG_union_type => "union",
        constants::DW_TAG_class_type => "class",
        _ => "enum",
    };
    format!("{word} {}", scopes.join("::"))
}

/// The typedef of a type without a name.
fn defined_as(info: &DebugInfo, index: usize) -> Option<String> {
    let is_name = |entry: &&DebugEntry| {
        entry.tag == constants::DW_TAG_typedef && entry.type_of == Some(index)
    };
    info.entries
        .iter()
        .find(is_name)
        .map(|entry| entry.name.clone())
}

fn layout(info: &DebugInfo, entry: &DebugEntry, index: usize) -> TypeLayout {
    let mut layout = TypeLayout {
        tag: entry.tag,
        size: entry.size.unwrap_or_default(),
        file: entry.file.clone(),
        line: entry.line,
        members: Vec::new(),
        enumerators: BTreeMap::new(),
    };
    members(info, index, 0, "", &mut layout.members, DEPTH);
    for (_, child) in info.children(index) {
        if child.tag == constants::DW_TAG_enumerator {
            let value = child.value.unwrap_or_default();
            layout.enumerators.insert(child.name.clone(), value);
        }
    }
    layout
}

fn members(
    info: &DebugInfo,
    index: usize,
    base: u64,
    prefix: &str,
    found: &mut Vec<Member>,
    depth: usize,
) {
    for (_, child) in info.children(index) {
        let is_base = child.tag == constants::DW_TAG_inheritance;
        if !(child.tag == constants::DW_TAG_member || is_base) || child.is_external || depth == 0 {
            continue;
        }
        let Some(type_of) = child.type_of else {
            continue;
        };
        let start = child
            .bit_offset
            .unwrap_or(child.offset.unwrap_or_default() * 8);
        let start = base.saturating_add(start);
        let inner = through(info, type_of);
        let anonymous = info
            .entry(inner)
            .filter(|entry| is_structure(entry.tag) && name_of(info, inner).is_empty());
        if anonymous.is_some() {
            let prefix = match child.name.as_str() {
                "" => prefix.to_owned(),
                name => format!("{prefix}{name}."),
            };
            members(info, inner, start, &prefix, found, depth - 1);
            continue;
        }
        let shape = shape(info, Some(type_of), depth - 1);
        let name = match (is_base, child.name.as_str()) {
            (true, _) => format!("{prefix}base {}", shape.words()),
            (false, name) => format!("{prefix}{name}"),
        };
        let bits = child.bit_size.unwrap_or_else(|| shape.size() * 8);
        found.push(Member {
            name,
            start,
            bits,
            shape,
        });
    }
}

/// What a type is, without names and qualifiers.
fn through(info: &DebugInfo, mut index: usize) -> usize {
    for _ in 0..DEPTH {
        match info.entry(index) {
            Some(entry) if is_transparent(entry.tag) => match entry.type_of {
                Some(next) => index = next,
                None => return index,
            },
            _ => return index,
        }
    }
    index
}

fn shape(info: &DebugInfo, index: Option<usize>, depth: usize) -> Shape {
    let Some((index, entry)) = index
        .map(|index| through(info, index))
        .and_then(|index| Some((index, info.entry(index)?)))
        .filter(|_| depth > 0)
    else {
        return Shape::Nothing;
    };
    let size = entry.size.unwrap_or_default();
    if is_pointer(entry.tag) {
        let to = shape(info, entry.type_of, depth - 1);
        return Shape::Pointer { to: to.words() };
    }
    match entry.tag {
        constants::DW_TAG_base_type if is_integer(entry) => Shape::Integer {
            name: entry.name.clone(),
            size,
        },
        constants::DW_TAG_array_type => {
            let counts = info.children(index);
            Shape::Array {
                of: Box::new(shape(info, entry.type_of, depth - 1)),
                counts: counts.map(|(_, child)| child.count).collect(),
            }
        }
        constants::DW_TAG_subroutine_type => {
            let parameters = info
                .children(index)
                .map(|(_, child)| shape(info, child.type_of, depth - 1).words());
            let parameters = parameters.collect::<Vec<_>>().join(", ");
            let result = shape(info, entry.type_of, depth - 1).words();
            Shape::Basic {
                name: format!("{result}({parameters})"),
                size: 0,
            }
        }
        tag if is_aggregate(tag) => {
            let name = match name_of(info, index) {
                name if name.is_empty() => anonymous(info, index, depth - 1),
                name => name,
            };
            Shape::Named { name, size }
        }
        _ => Shape::Basic {
            name: entry.name.clone(),
            size,
        },
    }
}

/// All there is to say of a structure without a name.
fn anonymous(info: &DebugInfo, index: usize, depth: usize) -> String {
    let mut found = Vec::new();
    members(info, index, 0, "", &mut found, depth);
    let member = |member: &Member| {
        let Member {
            name,
            start,
            bits,
            shape,
        } = member;
        format!("{} {name} at bit {start} ({bits})", shape.words())
    };
    format!(
        "{{ {} }}",
        found.iter().map(member).collect::<Vec<_>>().join("; ")
    )
}

fn is_integer(entry: &DebugEntry) -> bool {
    let integers = [
        constants::DW_ATE_signed,
        constants::DW_ATE_unsigned,
        constants::DW_ATE_signed_char,
        constants::DW_ATE_unsigned_char,
    ];
    let encoding = entry.encoding.unwrap_or_default();
    integers.iter().any(|known| u64::from(known.0) == encoding)
}

impl Shape {
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Integer { size, .. } | Self::Basic { size, .. } | Self::Named { size, .. } => {
                *size
            }
            Self::Pointer { .. } => 8,
            Self::Array { of, counts } => {
                let counts = counts.iter().map(|count| count.unwrap_or_default());
                counts.fold(of.size(), u64::saturating_mul)
            }
            Self::Nothing => 0,
        }
    }

    /// As one would write it, roughly.
    pub(crate) fn words(&self) -> String {
        match self {
            Self::Integer { name, .. } | Self::Basic { name, .. } | Self::Named { name, .. } => {
                name.clone()
            }
            Self::Pointer { to } => format!("{to} *"),
            Self::Array { of, counts } => {
                let count = |count: &Option<u64>| {
                    count.map_or("[]".to_owned(), |count| format!("[{count}]"))
                };
                let counts: String = counts.iter().map(count).collect();
                format!("{}{counts}", of.words())
            }
            Self::Nothing => "void".to_owned(),
        }
    }

    /// True if memory that was written as one can be read as the other.
    pub(crate) fn fits(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Integer { size, .. }, Self::Integer { size: other, .. }) => size == other,
            (Self::Named { name, .. }, Self::Named { name: other, .. }) => name == other,
            (
                Self::Array { of, counts },
                Self::Array {
                    of: other,
                    counts: other_counts,
                },
            ) => counts == other_counts && of.fits(other),
            _ => self == other,
        }
    }
}

/// Names of the structures that a type holds (false) or leads to by a pointer (true), not going
/// into any of them.
fn reached(info: &DebugInfo, type_of: usize) -> Vec<(String, bool)> {
    let (mut index, mut by_pointer) = (type_of, false);
    for _ in 0..DEPTH {
        index = through(info, index);
        let Some(entry) = info.entry(index) else {
            break;
        };
        if is_aggregate(entry.tag) {
            let name = name_of(info, index);
            return if name.is_empty() {
                Vec::new()
            } else {
                vec![(name, by_pointer)]
            };
        }
        by_pointer |= is_pointer(entry.tag);
        match entry.type_of {
            Some(next) => index = next,
            None => break,
        }
    }
    Vec::new()
}

fn function_of(info: &DebugInfo, index: usize) -> Option<usize> {
    let mut parent = info.entry(index)?.parent;
    while let Some(found) = parent {
        let entry = info.entry(found)?;
        if entry.tag == constants::DW_TAG_subprogram {
            return Some(found);
        }
        if is_structure(entry.tag) {
            return None;
        }
        parent = entry.parent;
    }
    None
}

/// The name of its symbol.
fn function_name(info: &DebugInfo, index: usize) -> String {
    let mut index = index;
    for _ in 0..DEPTH {
        let Some(entry) = info.entry(index) else {
            break;
        };
        if !entry.linkage_name.is_empty() {
            return entry.linkage_name.clone();
        }
        match (entry.name.as_str(), entry.origin) {
            ("", Some(origin)) => index = origin,
            (name, _) => return name.to_owned(),
        }
    }
    String::new()
}

/// A variable inside of a function that has one address for all calls.
fn is_static(info: &DebugInfo, index: usize) -> bool {
    info.entry(index).is_some_and(|entry| entry.has_address)
}
