//! How the types of the two objects of one compile differ.

use std::collections::BTreeSet;

use gimli::constants;

use super::debug_info::{DebugInfo, DebugInfoError};
use super::types::{Member, TypeLayout, Types, Uses};
use crate::compare::Comparison;
use crate::unit::{Flow, Kind, Referent, Unit};

/// A type, or variable, that old memory has in another form than new code expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LayoutChange {
    /// `struct conn`
    pub(crate) name: String,
    /// Where the original declares it.
    pub(crate) file: String,
    pub(crate) line: u64,
    /// What is different, old and new.
    pub(crate) differences: Vec<String>,
    /// Functions that use it.
    pub(crate) users: BTreeSet<String>,
}

/// A type whose layout differs, and no harm comes from it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Harmless {
    pub(crate) name: String,
    /// Why it is harmless.
    pub(crate) argument: String,
}

/// How the types of one compile differ.
#[derive(Debug, Default)]
pub(crate) struct LayoutComparison {
    pub(crate) changes: Vec<LayoutChange>,
    pub(crate) harmless: Vec<Harmless>,
}

impl LayoutComparison {
    /// Compares the types of the two objects, whose code is compared already.
    pub(crate) fn between(
        original: &[u8],
        fixed: &[u8],
        comparison: &Comparison,
    ) -> Result<Self, DebugInfoError> {
        let original = Types::of(&DebugInfo::read(original)?);
        let fixed = Types::of(&DebugInfo::read(fixed)?);
        let mut layouts = Self::default();
        for (name, old) in &original.layouts {
            let Some(new) = fixed.layouts.get(name) else {
                continue;
            };
            let uses = [&original, &fixed].map(|types| types.uses.get(name));
            let uses = uses.into_iter().flatten();
            layouts.add(name, old, new, &merged(uses), comparison);
        }
        for (name, (old, file, line)) in &original.variables {
            if let Some((new, ..)) = fixed.variables.get(name)
                && !old.fits(new)
            {
                layouts.changes.push(LayoutChange {
                    name: format!("variable {name}"),
                    file: file.clone(),
                    line: *line,
                    differences: vec![format!(
                        "its type was {}, and is {}",
                        old.words(),
                        new.words()
                    )],
                    users: BTreeSet::new(),
                });
            }
        }
        Ok(layouts)
    }

    fn add(
        &mut self,
        name: &str,
        old: &TypeLayout,
        new: &TypeLayout,
        uses: &Uses,
        comparison: &Comparison,
    ) {
        let Difference { bad, good } = Difference::between(old, new);
        let mut harmless = |arguments: Vec<String>| {
            self.harmless
                .extend(arguments.into_iter().map(|argument| Harmless {
                    name: name.to_owned(),
                    argument,
                }));
        };
        if bad.is_empty() {
            harmless(good);
        } else if is_on_replaced_stacks(uses, comparison) {
            harmless(vec![
                "it is only on the stack, in functions that are all replaced".to_owned(),
            ]);
        } else {
            self.changes.push(LayoutChange {
                name: name.to_owned(),
                file: old.file.clone(),
                line: old.line,
                differences: bad,
                users: uses.functions.clone(),
            });
        }
    }
}

fn merged<'u>(uses: impl Iterator<Item = &'u Uses>) -> Uses {
    uses.fold(Uses::default(), |mut all, uses| {
        all.functions.extend(uses.functions.iter().cloned());
        all.is_local |= uses.is_local;
        all.is_elsewhere |= uses.is_elsewhere;
        all
    })
}

/// True if no memory that outlives a call of a replaced function can have the type.
fn is_on_replaced_stacks(uses: &Uses, comparison: &Comparison) -> bool {
    let original = &comparison.original;
    let is_replaced = |name: &String| {
        let Some(&id) = original.names.get(name) else {
            // Inlined everywhere, or new.
            return true;
        };
        comparison.changed.contains(&id) || comparison.removed.contains(&id)
    };
    uses.is_local
        && !uses.is_elsewhere
        && uses.functions.iter().all(is_replaced)
        && !uses
            .functions
            .iter()
            .any(|name| is_pointed_to(&comparison.fixed, name))
}

/// True if anything takes the address of a function: an unknown caller may pass any argument.
fn is_pointed_to(unit: &Unit, name: &str) -> bool {
    let Some(id) = unit.names.get(name) else {
        return false;
    };
    let mut references = unit.items.iter().flat_map(|item| {
        let in_code = item.kind == Kind::Function;
        item.relocations.iter().map(move |reloc| (in_code, reloc))
    });
    references.any(|(in_code, reloc)| {
        reloc.referent == Referent::Item(*id) && (!in_code || reloc.flow == Flow::Value)
    })
}

/// How two layouts of one type differ.
#[derive(Default)]
struct Difference {
    bad: Vec<String>,
    good: Vec<String>,
}

impl Difference {
    fn between(old: &TypeLayout, new: &TypeLayout) -> Self {
        let mut difference = Self::default();
        if old.size != new.size {
            let sizes = format!("it had {} bytes, and has {}", old.size, new.size);
            difference.bad.push(sizes);
        }
        for (name, value) in &old.enumerators {
            match new.enumerators.get(name) {
                Some(other) if other == value => {}
                Some(other) => difference
                    .bad
                    .push(format!("{name} was {value}, and is {other}")),
                None => difference.bad.push(format!("{name} ({value}) is gone")),
            }
        }
        for name in new.enumerators.keys() {
            if !old.enumerators.contains_key(name) {
                let added =
                    format!("the enumerator {name} is new, and all others are as they were");
                difference.good.push(added);
            }
        }
        for member in &old.members {
            difference.member(member, new);
        }
        for member in &new.members {
            difference.added(member, old);
        }
        difference
    }

    fn member(&mut self, old: &Member, layout: &TypeLayout) {
        let name = &old.name;
        let Some(new) = layout.members.iter().find(|new| new.name == *name) else {
            self.bad.push(format!("{name} (at {}) is gone", place(old)));
            return;
        };
        if old.start != new.start {
            self.bad.push(format!(
                "{name} was at {}, and is at {}",
                place(old),
                place(new)
            ));
        }
        if !old.shape.fits(&new.shape) {
            let (old, new) = (old.shape.words(), new.shape.words());
            self.bad.push(format!("{name} was {old}, and is {new}"));
        } else if old.bits != new.bits {
            let (old, new) = (old.bits, new.bits);
            self.bad
                .push(format!("{name} had {old} bits, and has {new}"));
        }
    }

    fn added(&mut self, new: &Member, layout: &TypeLayout) {
        let Member {
            name, start, bits, ..
        } = new;
        if layout.members.iter().any(|old| old.name == *name) {
            return;
        }
        let end = start.saturating_add((*bits).max(1));
        let overlaps =
            |old: &&Member| old.start < end && *start < old.start.saturating_add(old.bits);
        if layout.tag == constants::DW_TAG_union_type {
            self.good.push(format!(
                "{name} is new in the union, which is as large as before"
            ));
        } else if let Some(other) = layout.members.iter().find(overlaps) {
            let (place, other) = (place(new), &other.name);
            self.bad
                .push(format!("{name} is new at {place}, where {other} was"));
        } else {
            self.good.push(format!(
                "{name} is new at {}, in what was padding: in memory from before the patch it is what was left there",
                place(new)
            ));
        }
    }
}

/// In bytes, and bits where there are some.
fn place(member: &Member) -> String {
    match (member.start / 8, member.start % 8) {
        (bytes, 0) => bytes.to_string(),
        (bytes, bits) => format!("{bytes}, bit {bits}"),
    }
}
