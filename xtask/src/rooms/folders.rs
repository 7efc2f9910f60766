//! Which folder of a crate may use which.
//!
//! A room is a folder at the top of a crate, with all below it, or a file there that stands alone.
//! The root file only declares the rooms and says what of them is public, so it may use all of
//! them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::Parsed;
use super::source::{File, FileId};

/// The rooms of one crate, each with the rooms that it may use.
#[derive(Debug)]
pub(super) struct Plan {
    package: &'static str,
    rooms: &'static [(&'static str, &'static [&'static str])],
}

/// Lower rooms first. A crate that is not here is small enough to be one room.
const PLANS: &[Plan] = &[
    Plan {
        package: "engraft",
        rooms: &[
            ("backoff", &[]),
            ("error", &[]),
            ("modules", &["backoff", "error"]),
            ("contexts", &["error", "modules"]),
            ("agent", &["backoff", "error", "modules"]),
            ("session", &["agent", "contexts", "backoff", "error"]),
            ("transition", &["agent", "backoff", "error", "session"]),
            (
                "commands",
                &[
                    "agent",
                    "contexts",
                    "backoff",
                    "error",
                    "modules",
                    "session",
                    "transition",
                ],
            ),
            // In the binary, which sees the rest as its users do.
            ("command_line", &[]),
        ],
    },
    Plan {
        package: "engraft-core",
        rooms: &[
            ("terms", &[]),
            ("dispatch", &["terms"]),
            ("model", &["dispatch", "terms"]),
            ("livepatch", &["dispatch", "model", "terms"]),
        ],
    },
    Plan {
        package: "engraft-agent",
        rooms: &[
            ("system", &[]),
            ("patch", &["system"]),
            ("loader", &["system"]),
            ("unwind", &["system", "patch"]),
            ("model", &["system", "patch", "loader", "unwind"]),
            ("runtime", &["system", "patch", "loader", "model"]),
        ],
    },
    Plan {
        package: "engraft-build",
        rooms: &[
            ("binary", &[]),
            ("refusal", &[]),
            ("source", &[]),
            ("unit", &[]),
            ("wrapper", &[]),
            ("record", &[]),
            ("compile", &["record"]),
            ("compare", &["unit"]),
            ("correlate", &["binary", "refusal", "unit"]),
            ("layouts", &["compare", "unit"]),
            (
                "request",
                &["binary", "compile", "refusal", "source", "unit"],
            ),
            (
                "candidates",
                &[
                    "binary", "compare", "compile", "layouts", "record", "refusal", "request",
                    "source", "unit",
                ],
            ),
            (
                "image",
                &["binary", "compare", "correlate", "refusal", "unit"],
            ),
            (
                "assemble",
                &[
                    "binary",
                    "candidates",
                    "compare",
                    "correlate",
                    "image",
                    "layouts",
                    "refusal",
                    "request",
                    "unit",
                ],
            ),
            (
                "build",
                &[
                    "assemble",
                    "binary",
                    "candidates",
                    "compile",
                    "layouts",
                    "record",
                    "request",
                    "source",
                ],
            ),
        ],
    },
    Plan {
        package: "engraft-process",
        rooms: &[
            ("sys", &[]),
            ("process", &["sys"]),
            ("memory", &["process", "sys"]),
            ("elf", &["memory", "process", "sys"]),
            ("trace", &["memory", "process", "sys"]),
            ("stack", &["elf", "memory", "process", "sys", "trace"]),
            ("call", &["memory", "process", "sys", "trace"]),
            ("stop", &["call", "memory", "process", "sys", "trace"]),
            (
                "facade",
                &["call", "elf", "memory", "process", "stop", "sys", "trace"],
            ),
        ],
    },
];

/// Rooms that are nothing but methods of a type of a lower room: those that lead into the rooms
/// above the type. No other room may use one, so the type's room does not come to depend on what
/// the methods use.
const FACADES: &[(&str, &str)] = &[("engraft-process", "facade")];

/// The table of a crate. None if it has no folders yet.
pub(super) fn plan_of(package: &str) -> Option<&'static Plan> {
    PLANS.iter().find(|plan| plan.package == package)
}

/// All in the sources of a crate that its table does not allow, and all in the table that they do
/// not need.
pub(super) fn faults(plan: &Plan, sources: &[Parsed]) -> Vec<String> {
    let package = plan.package;
    let mut faults = Vec::new();
    let mut used = BTreeSet::new();
    let mut there = BTreeSet::new();
    for parsed in sources {
        let files = &parsed.source.files;
        there.extend(files.iter().filter_map(room));
        for edge in edges(parsed) {
            if !plan.allows(&edge.from, &edge.to) {
                faults.push(edge.fault(package));
            }
            used.insert((edge.from, edge.to));
        }
        faults.extend(moved_implementations(package, parsed));
        faults.extend(undocumented(package, files));
    }
    let listed: BTreeMap<_, _> = plan.rooms.iter().copied().collect();
    for room in &there {
        if !listed.contains_key(room.as_str()) {
            faults.push(format!(
                "{package}: {room} has no line in the table of folders"
            ));
        }
    }
    for (room, uses) in listed {
        if !there.contains(room) {
            faults.push(format!(
                "{package}: {room} is in the table of folders, but not in the crate"
            ));
        }
        for to in uses {
            if !used.contains(&(room.to_owned(), (*to).to_owned())) {
                faults.push(format!(
                    "{package}: {room} may use {to}, but does not: take that out of the table"
                ));
            }
        }
    }
    faults
}

/// What each room of a crate uses, as lines.
pub(super) fn lines(package: &str, sources: &[Parsed]) -> Vec<String> {
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for parsed in sources {
        for name in parsed.source.files.iter().filter_map(room) {
            uses.entry(name).or_default();
        }
        for edge in edges(parsed) {
            uses.entry(edge.from).or_default().insert(edge.to);
        }
    }
    let line = |(room, used): (String, BTreeSet<String>)| {
        let used = used.into_iter().collect::<Vec<_>>().join(", ");
        format!("{package}: {room} uses {used}")
    };
    uses.into_iter().map(line).collect()
}

impl Plan {
    fn allows(&self, from: &str, to: &str) -> bool {
        let mut rooms = self.rooms.iter();
        rooms.any(|(room, uses)| *room == from && uses.contains(&to))
    }
}

/// A use of one room by another, with the files by which it was noticed.
#[derive(Debug)]
struct Edge {
    from: String,
    to: String,
    user: PathBuf,
    used: PathBuf,
}

impl Edge {
    fn fault(&self, package: &str) -> String {
        let Self {
            from,
            to,
            user,
            used,
        } = self;
        let (user, used) = (user.display(), used.display());
        format!("{package}: {from} uses {to}, which it may not: {user} uses {used}")
    }
}

/// The edges between rooms, exports among them.
fn edges(parsed: &Parsed) -> Vec<Edge> {
    let files = &parsed.source.files;
    let pairs = parsed.uses.edges.union(&parsed.uses.exports);
    let edge = |&(user, used): &(FileId, FileId)| {
        let (from, to) = (room(&files[user])?, room_or_root(&files[used]));
        (from != to).then(|| Edge {
            from,
            to,
            user: files[user].path.clone(),
            used: files[used].path.clone(),
        })
    };
    pairs.filter_map(edge).collect()
}

/// The room of a file. None for the root file.
fn room(file: &File) -> Option<String> {
    let is_root = ["lib.rs", "main.rs"]
        .iter()
        .any(|root| file.path == Path::new(root));
    let first = file.path.components().next()?;
    let name = Path::new(first.as_os_str()).file_stem()?;
    (!is_root).then(|| name.to_string_lossy().into_owned())
}

/// As [`room`], but the root file is called by its own name.
fn room_or_root(file: &File) -> String {
    room(file).unwrap_or_else(|| file.path.display().to_string())
}

/// Inherent `impl` blocks that stand in another room than their type.
fn moved_implementations(package: &str, parsed: &Parsed) -> Vec<String> {
    let files = &parsed.source.files;
    let moved = parsed
        .uses
        .implementations
        .iter()
        .filter(|(user, used)| room_or_root(&files[*user]) != room_or_root(&files[*used]))
        .filter(|(user, _)| !is_facade(package, &room_or_root(&files[*user])));
    let fault = |&(user, used): &(FileId, FileId)| {
        let (user, used) = (files[user].path.display(), files[used].path.display());
        format!("{package}: {user} has an `impl` of a type of another room, from {used}")
    };
    moved.map(fault).collect()
}

fn is_facade(package: &str, room: &str) -> bool {
    FACADES.contains(&(package, room))
}

/// The modules with a folder whose file does not begin with a text.
fn undocumented(package: &str, files: &[File]) -> Vec<String> {
    let folders: BTreeSet<_> = files.iter().filter_map(|file| file.path.parent()).collect();
    let has_folder = |file: &&File| {
        file.path.ends_with("mod.rs") || folders.contains(file.path.with_extension("").as_path())
    };
    let fault = |file: &File| {
        let path = file.path.display();
        format!("{package}: {path} does not say what its folder is for")
    };
    let silent = files.iter().filter(has_folder).filter(|file| !file.has_doc);
    silent.map(fault).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::made_up;
    use super::*;

    const PLAN: Plan = Plan {
        package: "made-up",
        rooms: &[
            ("upper", &["lower", "error"]),
            ("lower", &[]),
            ("error", &[]),
        ],
    };

    const UPPER: (&str, &str) = (
        "upper/mod.rs",
        "//! What is above. \n use crate::lower::work::Work; use crate::error::Error;",
    );
    const LOWER: (&str, &str) = ("lower/mod.rs", "//! What is below. \n pub mod work;");
    const WORK: (&str, &str) = ("lower/work.rs", "pub struct Work;");
    const ERROR: (&str, &str) = ("error.rs", "pub struct Error;");

    /// The faults of a crate of three rooms, of which some files have another text.
    fn faults_with(changed: &[(&str, &str)]) -> Vec<String> {
        let root = (
            "lib.rs",
            "mod upper; mod lower; mod error; pub use upper::*;",
        );
        let mut files = vec![root, UPPER, LOWER, WORK, ERROR];
        for &(path, text) in changed {
            files.retain(|(it, _)| *it != path);
            files.push((path, text));
        }
        files.sort_by_key(|(path, _)| *path != "lib.rs");
        faults(&PLAN, &[made_up(&files)])
    }

    #[test]
    fn what_the_table_says_is_no_fault() {
        assert!(faults_with(&[]).is_empty());
    }

    #[test]
    fn an_edge_upwards_is_a_fault() {
        for text in [
            "use crate::upper::Upper;",
            "use super::super::upper::Upper;",
            "fn f(_: crate::upper::Upper) {}",
            "use crate::Upper;",
            "pub use crate::upper::Upper;",
        ] {
            let upper = format!("{} pub struct Upper;", UPPER.1);
            let work = format!("pub struct Work; {text}");
            let changed = [(UPPER.0, upper.as_str()), (WORK.0, work.as_str())];
            let expected =
                "made-up: lower uses upper, which it may not: lower/work.rs uses upper/mod.rs";
            assert_eq!(faults_with(&changed), [expected], "{text}");
        }
    }

    #[test]
    fn an_edge_that_nobody_uses_is_a_fault() {
        let upper = "//! What is above. \n use crate::lower::work::Work;";
        assert_eq!(
            faults_with(&[(UPPER.0, upper)]),
            ["made-up: upper may use error, but does not: take that out of the table"]
        );
    }

    #[test]
    fn a_room_without_a_line_and_a_line_without_a_room_are_faults() {
        let root = "mod upper; mod lower; mod mistake;";
        let upper = UPPER.1.replace("error", "mistake");
        let changed = [("lib.rs", root), (UPPER.0, &upper), ("mistake.rs", ERROR.1)];
        assert_eq!(
            faults_with(&changed),
            [
                "made-up: upper uses mistake, which it may not: upper/mod.rs uses mistake.rs",
                "made-up: mistake has no line in the table of folders",
                "made-up: error is in the table of folders, but not in the crate",
                "made-up: upper may use error, but does not: take that out of the table",
            ]
        );
    }

    #[test]
    fn a_folder_without_a_text_is_a_fault() {
        let silent = "made-up: lower/mod.rs does not say what its folder is for";
        assert_eq!(faults_with(&[(LOWER.0, "pub mod work;")]), [silent]);
        // So is one whose module is a file beside it, at any depth.
        let changed = [
            (WORK.0, "mod deep; pub struct Work;"),
            ("lower/work/deep.rs", ""),
        ];
        let silent = "made-up: lower/work.rs does not say what its folder is for";
        assert_eq!(faults_with(&changed), [silent]);
    }

    #[test]
    fn an_implementation_in_another_room_than_its_type_is_a_fault() {
        let upper = format!("{} impl Work {{ fn more(&self) {{}} }}", UPPER.1);
        let moved =
            "made-up: upper/mod.rs has an `impl` of a type of another room, from lower/work.rs";
        assert_eq!(faults_with(&[(UPPER.0, &upper)]), [moved]);
        let upper = format!(
            "{} impl Drop for Work {{ fn drop(&mut self) {{}} }}",
            UPPER.1
        );
        assert!(faults_with(&[(UPPER.0, &upper)]).is_empty());
    }
}
