//! Which crate may use which.

use anyhow::{Context, Result};
use serde_json::Value;

/// What a crate of ours may use of our other crates.
struct Room {
    name: &'static str,
    /// In the product.
    uses: &'static [&'static str],
    /// Only in its tests, besides.
    tests_with: &'static [&'static str],
}

const ROOMS: &[Room] = &[
    Room {
        name: "engraft-core",
        uses: &["engraft-machine"],
        // Itself, with the feature that lets its proofs break a rule on purpose.
        tests_with: &["engraft-core"],
    },
    // The page, the jump, the red zone, the name of an object: every room must mean the same, and
    // the rooms of processes, of patches and of the agent have nothing else in common.
    Room {
        name: "engraft-machine",
        uses: &[],
        tests_with: &[],
    },
    Room {
        name: "engraft-abi",
        uses: &["engraft-machine"],
        tests_with: &[],
    },
    Room {
        name: "engraft-elf",
        uses: &[],
        tests_with: &[],
    },
    Room {
        name: "engraft-patch",
        uses: &["engraft-machine"],
        tests_with: &[],
    },
    Room {
        name: "engraft-process",
        uses: &["engraft-elf", "engraft-machine"],
        // Itself, with the feature that lets its tests end the command at each of its effects.
        tests_with: &["engraft-process"],
    },
    Room {
        name: "engraft-agent",
        uses: &[
            "engraft-core",
            "engraft-abi",
            "engraft-elf",
            "engraft-machine",
        ],
        tests_with: &[],
    },
    Room {
        name: "engraft-build",
        uses: &["engraft-machine", "engraft-patch"],
        tests_with: &[],
    },
    Room {
        name: "engraft",
        // Not the agent: it is built for another place and comes in as bytes.
        uses: &[
            "engraft-abi",
            "engraft-build",
            "engraft-machine",
            "engraft-patch",
            "engraft-process",
        ],
        tests_with: &["engraft-testkit"],
    },
    // They see engraft as its users do.
    Room {
        name: "engraft-testkit",
        uses: &[],
        tests_with: &[],
    },
    Room {
        name: "xtask",
        uses: &["engraft-testkit"],
        tests_with: &[],
    },
];

/// Everything in the output of `cargo metadata` that the table does not allow.
pub(super) fn faults(metadata: &Value) -> Result<Vec<String>> {
    let packages = metadata["packages"]
        .as_array()
        .context("the metadata lists no packages")?;
    let names: Vec<&str> = packages
        .iter()
        .filter_map(|package| package["name"].as_str())
        .collect();
    let mut faults = Vec::new();
    for package in packages {
        let name = package["name"].as_str().context("a package has no name")?;
        let Some(room) = ROOMS.iter().find(|room| room.name == name) else {
            faults.push(format!("{name} has no line in the table of rooms"));
            continue;
        };
        let dependencies = package["dependencies"].as_array().map(Vec::as_slice);
        for dependency in dependencies.unwrap_or_default() {
            let used = dependency["name"]
                .as_str()
                .context("a dependency has no name")?;
            // The `kind` of a dependency of the product itself is null.
            let in_tests = dependency["kind"] == "dev";
            let allowed =
                room.uses.contains(&used) || (in_tests && room.tests_with.contains(&used));
            if names.contains(&used) && !allowed {
                let place = if in_tests { "in its tests" } else { "at all" };
                faults.push(format!("{name} uses {used}, which it may not {place}"));
            }
        }
    }
    faults.extend(unused_edges(packages));
    let gone = ROOMS.iter().filter(|room| !names.contains(&room.name));
    faults.extend(gone.map(|room| format!("{} is in the table, but is no package", room.name)));
    Ok(faults)
}

/// Edges of the table that no dependency needs.
fn unused_edges(packages: &[Value]) -> Vec<String> {
    let mut faults = Vec::new();
    for room in ROOMS {
        let package = packages.iter().find(|package| package["name"] == room.name);
        let depends = |used: &str, in_tests: bool| {
            let dependencies = package.and_then(|it| it["dependencies"].as_array());
            dependencies.is_some_and(|dependencies| {
                let mut dependencies = dependencies.iter();
                dependencies.any(|it| it["name"] == used && (it["kind"] == "dev") == in_tests)
            })
        };
        let unused = room.uses.iter().filter(|used| !depends(used, false));
        let unused_in_tests = room.tests_with.iter().filter(|used| !depends(used, true));
        for used in unused.chain(unused_in_tests) {
            let name = room.name;
            faults.push(format!(
                "{name} may use {used}, but does not: take that out of the table"
            ));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The workspace as the table has it, but for one package: it has these dependencies as well,
    /// if any, and lacks those on `without`.
    fn workspace_where(package: &str, more: &[Value], without: &str) -> Value {
        let packages = ROOMS.iter().map(|room| {
            let uses = room
                .uses
                .iter()
                .map(|used| json!({"name": used, "kind": null}));
            let tests_with = room.tests_with.iter();
            let tests_with = tests_with.map(|used| json!({"name": used, "kind": "dev"}));
            let mut dependencies: Vec<Value> = uses.chain(tests_with).collect();
            if room.name == package {
                dependencies.retain(|it| it["name"] != without);
                dependencies.extend_from_slice(more);
            }
            json!({"name": room.name, "dependencies": dependencies})
        });
        json!({"packages": packages.collect::<Vec<_>>()})
    }

    fn faults_of(package: &str, used: &str, kind: Option<&str>) -> Vec<String> {
        let dependency = json!({"name": used, "kind": kind});
        faults(&workspace_where(package, &[dependency], "")).unwrap()
    }

    #[test]
    fn an_edge_upwards_is_a_fault() {
        for kind in [None, Some("dev"), Some("build")] {
            let faults = faults_of("engraft-core", "engraft-patch", kind);
            assert_eq!(faults.len(), 1, "{kind:?}");
            assert!(
                faults[0].starts_with("engraft-core uses engraft-patch"),
                "{faults:?}"
            );
        }
        assert_eq!(faults_of("engraft", "engraft-agent", None).len(), 1);
        assert_eq!(faults_of("engraft-process", "engraft-patch", None).len(), 1);
    }

    #[test]
    fn an_edge_of_the_table_is_none() {
        assert!(faults_of("engraft-agent", "engraft-core", None).is_empty());
        assert!(faults_of("engraft-core", "serde", None).is_empty());
    }

    #[test]
    fn what_is_for_tests_stays_in_tests() {
        assert!(faults_of("engraft", "engraft-testkit", Some("dev")).is_empty());
        assert_eq!(faults_of("engraft", "engraft-testkit", None).len(), 1);
    }

    #[test]
    fn a_room_without_a_line_is_a_fault() {
        let mut workspace = workspace_where("xtask", &[], "");
        let packages = workspace["packages"].as_array_mut().unwrap();
        packages.push(json!({"name": "engraft-attic", "dependencies": []}));
        let faults = faults(&workspace).unwrap();
        assert_eq!(faults, ["engraft-attic has no line in the table of rooms"]);
    }

    #[test]
    fn an_edge_that_nobody_uses_is_a_fault() {
        for (package, used) in [
            ("engraft-agent", "engraft-core"),
            ("engraft", "engraft-testkit"),
        ] {
            let faults = faults(&workspace_where(package, &[], used)).unwrap();
            let expected =
                format!("{package} may use {used}, but does not: take that out of the table");
            assert_eq!(faults, [expected]);
        }
    }
}
