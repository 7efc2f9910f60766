//! Unseen objects: the fix changes them, and the builds made them without a recorded compile, for
//! example by a compiler that is called by its full path.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use object::read::elf::ElfFile64;
use object::{LittleEndian, Object as _, ObjectKind, ObjectSymbol as _, elf};

use super::same_program::same_program;
use crate::compile::Compile;
use crate::source::{TreeChanges, Trees};

/// Such objects of the fixed tree.
pub(super) fn unseen(compiles: &[Compile], changes: &TreeChanges, trees: &Trees) -> Vec<PathBuf> {
    let made: BTreeSet<&Path> = compiles.iter().map(|it| it.product.as_path()).collect();
    let names = compiles.iter().filter_map(|it| it.source.file_name());
    let names: BTreeSet<OsString> = names.map(ToOwned::to_owned).collect();
    let mut unseen = Vec::new();
    for file in &changes.changed {
        let path = trees.current().join(file);
        if made.contains(path.as_path()) {
            continue;
        }
        let is_other = sources(&path).is_some_and(|sources| !sources.is_subset(&names));
        if is_other && !same_program(&trees.original().join(file), &path) {
            unseen.push(path);
        }
    }
    unseen
}

/// The source files that an object names; several if objects were linked to one. `None` if it is no
/// object, or names none.
fn sources(path: &Path) -> Option<BTreeSet<OsString>> {
    let bytes = fs::read(path).ok()?;
    let elf = ElfFile64::<LittleEndian>::parse(bytes.as_slice()).ok()?;
    if elf.kind() != ObjectKind::Relocatable {
        return None;
    }
    let files = elf
        .symbols()
        .filter(|symbol| symbol.elf_symbol().st_type() == elf::STT_FILE);
    let names = files.filter_map(|file| {
        Path::new(file.name().ok()?)
            .file_name()
            .map(ToOwned::to_owned)
    });
    Some(names.collect()).filter(|names: &BTreeSet<_>| !names.is_empty())
}
