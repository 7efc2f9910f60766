//! Prebuilt objects: they were in the user's tree before, and neither build made them. How they
//! were compiled and which headers they read is unknown, so they have to be made again if the fix
//! changes a header.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use object::read::elf::ElfFile64;
use object::{LittleEndian, Object as _, ObjectSymbol as _};

use crate::binary::Binary;
use crate::compile::compiles;
use crate::record::Record;
use crate::source::is_supported;

/// What objects are called.
const OBJECTS: [&str; 4] = ["o", "os", "obj", "lo"];

/// Such objects, by their paths in the tree.
pub(crate) struct PrebuiltObjects {
    objects: Vec<PathBuf>,
    /// Where they were put, while they are out of the tree.
    moved: Vec<(PathBuf, PathBuf)>,
}

impl PrebuiltObjects {
    /// Those in `tree`, a copy of `home` that was built.
    pub(crate) fn find(tree: &Path, home: &Path, records: [&[Record]; 2]) -> io::Result<Self> {
        let made = records.into_iter().flatten().flat_map(compiles);
        let made: BTreeSet<_> = made.map(|compile| compile.product).collect();
        let mut objects = Vec::new();
        for_each_file(tree, &mut |path| {
            let is_object = has_extension(path, &OBJECTS) && !made.contains(path);
            if is_object && is_untouched(path, tree, home) {
                objects.push(path.to_owned());
            }
        })?;
        Ok(Self {
            objects,
            moved: Vec::new(),
        })
    }

    /// True if any of them may have been compiled from one of the files, which are relative to
    /// `tree`: it is called like one, or one is included anywhere.
    pub(crate) fn may_read(&self, files: &[PathBuf], tree: &Path) -> io::Result<bool> {
        if self.objects.is_empty() {
            return Ok(false);
        }
        let stem = |path: &Path| path.file_name().map(|name| first_part(name).to_owned());
        let stems: BTreeSet<_> = self.objects.iter().filter_map(|path| stem(path)).collect();
        if files
            .iter()
            .any(|file| stem(file).is_some_and(|stem| stems.contains(&stem)))
        {
            return Ok(true);
        }
        let names: Vec<_> = files.iter().filter_map(|file| file.file_name()).collect();
        let mut found = false;
        for_each_file(tree, &mut |path| {
            if !found && is_supported(path) {
                found = fs::read(path).is_ok_and(|text| includes(&text, &names));
            }
        })?;
        Ok(found)
    }

    /// Takes them out of the tree, so that the build has to make them again.
    pub(crate) fn move_out(&mut self, work: &Path) -> io::Result<()> {
        let place = work.join("prebuilt");
        fs::create_dir(&place)?;
        let all = self
            .objects
            .iter()
            .flat_map(|object| [Some(object.clone()), libtool_object(object)]);
        for (index, path) in all.flatten().enumerate() {
            let moved = place.join(index.to_string());
            // Two objects share one of libtool's.
            if path.is_file() && fs::rename(&path, &moved).is_ok() {
                self.moved.push((path, moved));
            }
        }
        Ok(())
    }

    /// Puts back what the build did not make again, and returns the objects among it.
    pub(crate) fn restore(&mut self) -> io::Result<Vec<PathBuf>> {
        let mut unknown = Vec::new();
        for (path, moved) in self.moved.drain(..) {
            if !path.exists() {
                fs::rename(moved, &path)?;
                unknown.extend(self.objects.contains(&path).then_some(path));
            }
        }
        Ok(unknown)
    }
}

/// True if every function that other objects can name is one of the binary's, by its name.
pub(crate) fn may_be_in(object: &Path, binary: &Binary) -> bool {
    let Ok(bytes) = fs::read(object) else {
        return false;
    };
    let Ok(elf) = ElfFile64::<LittleEndian>::parse(bytes.as_slice()) else {
        return false;
    };
    let functions = elf.symbols().filter(|symbol| {
        symbol.is_global() && symbol.is_definition() && symbol.kind() == object::SymbolKind::Text
    });
    let mut names = functions.filter_map(|symbol| symbol.name().ok()).peekable();
    names.peek().is_some() && names.all(|name| !binary.symbols(name).is_empty())
}

/// Whether neither build wrote it.
fn is_untouched(path: &Path, tree: &Path, home: &Path) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|file| file.modified()).ok();
    let before = path.strip_prefix(tree).ok().map(|inside| home.join(inside));
    before.is_some_and(|before| modified(&before).is_some_and(|time| modified(path) == Some(time)))
}

/// What libtool calls an object: a text beside it, or one directory above.
fn libtool_object(object: &Path) -> Option<PathBuf> {
    let directory = object.parent()?;
    let directory = match directory.file_name() {
        Some(name) if name == ".libs" => directory.parent()?,
        _ => directory,
    };
    Some(directory.join(object.file_name()?).with_extension("lo"))
}

fn first_part(name: &OsStr) -> &OsStr {
    let part = name.as_bytes().split(|&byte| byte == b'.').next();
    OsStr::from_bytes(part.unwrap_or_default())
}

/// True if a line that includes something names one of the files, or hides what it names in a
/// macro.
fn includes(text: &[u8], names: &[&OsStr]) -> bool {
    let mut lines = text.split(|&byte| byte == b'\n');
    lines.any(|line| {
        let Some(directive) = line.trim_ascii_start().strip_prefix(b"#") else {
            return false;
        };
        let Some(file) = directive.trim_ascii_start().strip_prefix(b"include") else {
            return false;
        };
        let quoted = file.contains(&b'"') || file.contains(&b'<');
        let named = |name: &&OsStr| {
            let name = name.as_bytes();
            file.windows(name.len().max(1)).any(|part| part == name)
        };
        !quoted || names.iter().any(named)
    })
}

fn has_extension(path: &Path, known: &[&str]) -> bool {
    path.extension()
        .is_some_and(|e| known.iter().any(|k| e == *k))
}

/// Calls for every file, links aside.
pub(crate) fn for_each_file(directory: &Path, found: &mut dyn FnMut(&Path)) -> io::Result<()> {
    let mut names: Vec<OsString> = Vec::new();
    for entry in fs::read_dir(directory)? {
        names.push(entry?.file_name());
    }
    names.sort();
    for name in names {
        let path = directory.join(name);
        let kind = fs::symlink_metadata(&path)?;
        if kind.is_dir() {
            for_each_file(&path, found)?;
        } else if kind.is_file() {
            found(&path);
        }
    }
    Ok(())
}
