//! Which file uses which: the paths that the code mentions, followed to the file that defines what
//! they name, through imports and re-exports.

use std::collections::BTreeSet;

use super::source::{FileId, Module, ModuleId, Source};

/// Longer chains of re-exports are circles.
const LONGEST_CHAIN: usize = 16;

/// The edges between the files of a library or program.
#[derive(Debug, Default)]
pub(super) struct Uses {
    /// Pairs of a file and another that it uses.
    pub(super) edges: BTreeSet<(FileId, FileId)>,
    /// Files that export what another file defines.
    pub(super) exports: BTreeSet<(FileId, FileId)>,
    /// Files with an inherent `impl` of a type that another file defines.
    pub(super) implementations: BTreeSet<(FileId, FileId)>,
}

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Module(ModuleId),
    /// Something that this file defines.
    Item(FileId),
}

/// Finds all edges.
pub(super) fn uses(source: &Source) -> Uses {
    let mut uses = Uses::default();
    for (id, module) in source.modules.iter().enumerate() {
        let file = |path: &Vec<String>| match source.follow(id, path, LONGEST_CHAIN) {
            Some(Place::Item(file)) if file != module.file => Some((module.file, file)),
            // What is used of a module is mentioned by itself.
            _ => None,
        };
        uses.edges.extend(module.mentioned.iter().filter_map(file));
        uses.exports.extend(module.exported.iter().filter_map(file));
        let implemented = module.implemented.iter().filter_map(file);
        uses.implementations.extend(implemented);
    }
    uses
}

impl Source {
    /// Follows a path that is mentioned in a module. None if it leads out of the crate.
    fn follow(&self, from: ModuleId, path: &[String], chain: usize) -> Option<Place> {
        let (first, mut rest) = path.split_first()?;
        let mut module = match first.as_str() {
            "crate" => 0,
            "self" => from,
            "super" => self.modules[from].parent?,
            _ => match self.look_up(from, first, rest.is_empty(), chain)? {
                Place::Module(module) => module,
                item @ Place::Item(_) => return Some(item),
            },
        };
        while let Some((name, after)) = rest.split_first() {
            rest = after;
            module = match name.as_str() {
                "super" => self.modules[module].parent?,
                _ => match self.look_up(module, name, rest.is_empty(), chain)? {
                    Place::Module(module) => module,
                    item @ Place::Item(_) => return Some(item),
                },
            };
        }
        Some(Place::Module(module))
    }

    /// What a name means in a module. A module and a function may share one: the last segment of a
    /// path means the function.
    fn look_up(&self, id: ModuleId, name: &str, is_last: bool, chain: usize) -> Option<Place> {
        let chain = chain.checked_sub(1)?;
        let module: &Module = &self.modules[id];
        let child = module.children.get(name).copied().map(Place::Module);
        if let (Some(child), false) = (child, is_last) {
            return Some(child);
        }
        if module.items.contains(name) {
            return Some(Place::Item(module.file));
        }
        let import = module.imports.get(name);
        // A crate may be imported under its own name, which leads nowhere.
        let import =
            import.filter(|path| path.first().map(String::as_str) != Some(name) || path.len() > 1);
        let imported = import.and_then(|path| self.follow(id, path, chain));
        let by_glob = || {
            let globs = module.globs.iter();
            let mut places = globs.filter_map(|glob| match self.follow(id, glob, chain)? {
                Place::Module(module) if module != id => self.look_up(module, name, is_last, chain),
                _ => None,
            });
            places.next()
        };
        imported.or(child).or_else(by_glob)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::made_up;

    /// The edges of a crate of these files, each as "user used".
    fn edges(files: &[(&str, &str)]) -> Vec<String> {
        let parsed = made_up(files);
        let path = |file: usize| parsed.source.files[file].path.display().to_string();
        let edges = parsed.uses.edges.iter();
        edges
            .map(|&(user, used)| format!("{} {}", path(user), path(used)))
            .collect()
    }

    /// The edges of `b.rs` with this text, beside `a/x.rs`, of which `a/mod.rs` exports a struct.
    fn edges_of(text: &str) -> Vec<String> {
        edges(&[
            (
                "lib.rs",
                "mod a; mod b; pub use a::Thing; pub use b::other;",
            ),
            ("a/mod.rs", "pub mod x; pub use x::Thing;"),
            (
                "a/x.rs",
                "pub struct Thing; pub fn work() {} macro_rules! m { () => {} }",
            ),
            ("b.rs", text),
        ])
    }

    #[test]
    fn a_use_is_followed_to_the_file_that_defines_it() {
        for text in [
            "use crate::a::x::Thing;",
            "use crate::{a::{self, x::{work}}, b};",
            "use crate::a::Thing as Other;",
            "use crate::Thing;",
            "use super::a::Thing;",
            "use crate::a; fn f() { a::x::work() }",
            "use crate::a::x::*; fn f() { work() }",
            "fn f(_: crate::Thing) {}",
            "fn f() { println!(\"{}\", 1 + crate::a::x::work(2)) }",
            "mod inner { fn f() { super::super::a::x::work() } }",
            "impl crate::a::Thing { fn f(&self) {} }",
        ] {
            assert_eq!(edges_of(text), ["b.rs a/x.rs"], "{text}");
        }
    }

    #[test]
    fn what_is_no_use_is_no_edge() {
        for text in [
            "",
            "use std::fmt; fn f() -> fmt::Result { Ok(()) }",
            "use a_crate::Thing; fn f(_: Thing) {}",
            "pub(in crate::b) fn f() {}",
            "#[cfg(test)] mod tests { use crate::a::x::Thing; }",
            "#[cfg(test)] use crate::a::x::Thing;",
            "mod a { pub fn work() {} } fn f() { a::work() }",
            "pub fn other() {} fn f() { crate::other() }",
        ] {
            assert!(edges_of(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn a_function_may_have_the_name_of_its_module() {
        let edges = edges(&[
            ("lib.rs", "mod a; mod b; pub use a::a;"),
            ("a.rs", "pub fn a() {}"),
            ("b.rs", "use crate::a; fn f() { a() }"),
        ]);
        assert_eq!(edges, ["b.rs a.rs"]);
    }

    #[test]
    fn imports_in_a_circle_lead_nowhere() {
        let edges = edges(&[
            ("lib.rs", "mod a; mod b;"),
            (
                "a.rs",
                "pub use crate::b::X; pub use crate::b::*; fn f() { X::y() }",
            ),
            ("b.rs", "pub use crate::a::X; pub use crate::a::*;"),
        ]);
        assert!(edges.is_empty());
    }
}
