//! What a crate is made of, as a line of a table.

use std::collections::BTreeSet;

use super::{Parsed, circles};

/// Above the lines.
pub(super) const HEADING: &str = "\
| crate | files | folders | largest circle of files | largest struct | its fields |
|---|---|---|---|---|---|";

/// The line of one crate.
pub(super) fn line(name: &str, sources: &[Parsed]) -> String {
    let files = || sources.iter().flat_map(|parsed| &parsed.source.files);
    let folders: BTreeSet<_> = files()
        .filter_map(|file| file.path.parent())
        .filter(|folder| !folder.as_os_str().is_empty())
        .collect();
    let circle = match circles::largest(sources) {
        0 => "none".to_owned(),
        number => number.to_string(),
    };
    let structs = files().flat_map(|file| &file.structs);
    let (largest, fields) = structs
        .max_by_key(|(_, fields)| *fields)
        .map_or(("none", 0), |(name, fields)| (name.as_str(), *fields));
    let (files, folders) = (files().count(), folders.len());
    format!("| {name} | {files} | {folders} | {circle} | `{largest}` | {fields} |")
}
