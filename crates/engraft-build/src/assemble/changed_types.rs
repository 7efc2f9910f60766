//! Types that the objects in the patch have in another form than memory has.

use std::collections::{BTreeMap, BTreeSet};

use crate::candidates::ChangedUnit;
use crate::layouts::{Harmless, LayoutChange};
use crate::refusal::Refusal;

/// Types that the objects in the patch have in another form than memory has.
#[derive(Default)]
pub(super) struct ChangedTypes {
    changes: BTreeMap<String, LayoutChange>,
    pub(super) harmless: BTreeSet<Harmless>,
}

impl ChangedTypes {
    pub(super) fn add(&mut self, unit: &ChangedUnit) {
        self.harmless.extend(unit.layouts.harmless.iter().cloned());
        for change in &unit.layouts.changes {
            let known = self.changes.entry(change.name.clone());
            let known = known.or_insert_with(|| change.clone());
            known.users.extend(change.users.iter().cloned());
        }
    }

    /// Drops the types whose new layout the author accepts. Returns their names.
    pub(super) fn accept(&mut self, accept: &[String]) -> BTreeSet<String> {
        let means = |name: &str| {
            let short = name.split_once(' ').map_or(name, |(_, short)| short);
            accept
                .iter()
                .any(|wanted| wanted == name || wanted == short)
        };
        let accepted: BTreeSet<_> = self
            .changes
            .keys()
            .filter(|name| means(name))
            .cloned()
            .collect();
        self.changes.retain(|name, _| !accepted.contains(name));
        accepted
    }

    pub(super) fn refusals(&mut self) -> Vec<Refusal> {
        let changes = std::mem::take(&mut self.changes).into_values();
        changes
            .map(|change| Refusal::ChangedLayout {
                name: change.name,
                file: change.file,
                line: change.line,
                differences: change.differences,
                users: change.users.into_iter().collect(),
            })
            .collect()
    }
}
