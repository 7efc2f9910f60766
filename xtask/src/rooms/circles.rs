//! Circles of files: files each of which uses, directly or through others, all the others.
//!
//! No file of a circle can be understood without the others, so a circle has to be small enough to
//! be read at once.

use std::collections::BTreeSet;

use super::Parsed;
use super::source::FileId;

/// More files than that are not read together.
const LARGEST: usize = 5;

/// A line for each circle that is too large.
pub(super) fn faults(package: &str, sources: &[Parsed]) -> Vec<String> {
    let mut lines = Vec::new();
    for parsed in sources {
        for circle in of(parsed).iter().filter(|circle| circle.len() > LARGEST) {
            let number = circle.len();
            let path = |&file: &FileId| parsed.source.files[file].path.display().to_string();
            let names = circle.iter().map(path).collect::<Vec<_>>().join(", ");
            lines.push(format!(
                "{package} has a circle of {number} files, more than {LARGEST}: {names}"
            ));
        }
    }
    lines
}

/// The number of files in the largest circle.
pub(super) fn largest(sources: &[Parsed]) -> usize {
    let circles = sources.iter().flat_map(of);
    circles.map(|circle| circle.len()).max().unwrap_or_default()
}

/// All circles of at least two files.
fn of(parsed: &Parsed) -> Vec<BTreeSet<FileId>> {
    circles(parsed.source.files.len(), &parsed.uses.edges)
}

/// The strongly connected components of a graph, each of at least two nodes.
fn circles(nodes: usize, edges: &BTreeSet<(FileId, FileId)>) -> Vec<BTreeSet<FileId>> {
    let backwards: BTreeSet<_> = edges.iter().map(|&(from, to)| (to, from)).collect();
    let mut placed: BTreeSet<FileId> = BTreeSet::new();
    let mut circles = Vec::new();
    for node in 0..nodes {
        if placed.contains(&node) {
            continue;
        }
        // All that it uses and that uses it.
        let used = reached(node, edges);
        let circle = &used & &reached(node, &backwards);
        placed.extend(&circle);
        if circle.len() > 1 {
            circles.push(circle);
        }
    }
    circles
}

/// The nodes to which a way leads, the first one among them.
fn reached(first: FileId, edges: &BTreeSet<(FileId, FileId)>) -> BTreeSet<FileId> {
    let mut reached = BTreeSet::from([first]);
    let mut open = vec![first];
    while let Some(node) = open.pop() {
        for &(_, to) in edges.range((node, 0)..=(node, FileId::MAX)) {
            if reached.insert(to) {
                open.push(to);
            }
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::super::tests::made_up;
    use super::*;

    #[test]
    fn a_circle_of_six_files_is_a_fault() {
        let ring = |length: usize| {
            let declarations: String = (0..length).map(|at| format!("mod m{at};")).collect();
            let mut files = vec![("lib.rs".to_owned(), declarations)];
            for at in 0..length {
                let next = (at + 1) % length;
                let text = format!("pub struct S; fn f() {{ crate::m{next}::S; }}");
                files.push((format!("m{at}.rs"), text));
            }
            let files: Vec<(&str, &str)> = files
                .iter()
                .map(|(path, text)| (&**path, &**text))
                .collect();
            faults("made-up", &[made_up(&files)])
        };
        assert!(ring(5).is_empty());
        assert_eq!(
            ring(6),
            [
                "made-up has a circle of 6 files, more than 5: m0.rs, m1.rs, m2.rs, m3.rs, m4.rs, m5.rs"
            ]
        );
    }

    #[test]
    fn files_on_a_way_there_and_back_are_a_circle() {
        let edges = BTreeSet::from([(0, 1), (1, 2), (2, 1), (2, 3), (3, 4), (4, 2), (4, 5)]);
        assert_eq!(circles(6, &edges), [BTreeSet::from([1, 2, 3, 4])]);
    }

    #[test]
    fn edges_downwards_are_none() {
        let edges = BTreeSet::from([(0, 1), (0, 2), (1, 3), (2, 3)]);
        assert!(circles(4, &edges).is_empty());
    }
}
