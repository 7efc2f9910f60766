//! The sources of a library or program, as modules: what each defines, imports and mentions.
//!
//! Code for tests (`#[cfg(test)]`) is left out: a test may look into every room.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemImpl, ItemMod, ItemUse, Macro, UseTree, Visibility};

/// The segments of a path, `crate` and `super` among them.
pub(super) type Names = Vec<String>;

/// A number of [`Source::modules`].
pub(super) type ModuleId = usize;

/// A number of [`Source::files`].
pub(super) type FileId = usize;

/// All modules that are reached from one root file.
#[derive(Debug, Default)]
pub(super) struct Source {
    /// The first one is the root.
    pub(super) modules: Vec<Module>,
    /// The first one is the root's.
    pub(super) files: Vec<File>,
}

/// A file that holds one module, and perhaps modules inside that.
#[derive(Debug, Default)]
pub(super) struct File {
    /// Relative to the folder of the root file.
    pub(super) path: PathBuf,
    /// Whether it begins with a `//!` text.
    pub(super) has_doc: bool,
    /// Its structs, with the number of fields of each, but for those with a `repr`.
    pub(super) structs: Vec<(String, usize)>,
}

/// A module, in a file of its own or inside another one.
#[derive(Debug, Default)]
pub(super) struct Module {
    pub(super) file: FileId,
    /// None for the root.
    pub(super) parent: Option<ModuleId>,
    pub(super) children: BTreeMap<String, ModuleId>,
    /// What is defined here, other than modules.
    pub(super) items: BTreeSet<String>,
    /// What `use` brings here, by the name that it has here.
    pub(super) imports: BTreeMap<String, Names>,
    /// The modules of which `use` brings everything here.
    pub(super) globs: Vec<Names>,
    /// Paths that the code mentions.
    pub(super) mentioned: BTreeSet<Names>,
    /// Paths that are exported from here under another address (`pub use`).
    pub(super) exported: BTreeSet<Names>,
    /// The types of inherent `impl` blocks.
    pub(super) implemented: BTreeSet<Names>,
}

impl Source {
    /// Reads the root file and all that it declares.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let base = root.parent().context("the root file is in no folder")?;
        let mut source = Self::default();
        source.read_file(base, root, base, None)?;
        Ok(source)
    }

    /// Reads a file. The modules that it declares lie in `folder`.
    fn read_file(
        &mut self,
        base: &Path,
        path: &Path,
        folder: &Path,
        parent: Option<ModuleId>,
    ) -> Result<ModuleId> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("failed to read {}", path.display()))?;
        let parsed = syn::parse_file(&text)
            .with_context(|| format!("failed to parse {}", path.display()))?;
        self.files.push(File {
            path: path.strip_prefix(base).unwrap_or(path).to_owned(),
            has_doc: parsed.attrs.iter().any(|it| it.path().is_ident("doc")),
            structs: Vec::new(),
        });
        let file = self.files.len() - 1;
        self.read_module(base, file, folder, parent, &parsed.items)
    }

    fn read_module(
        &mut self,
        base: &Path,
        file: FileId,
        folder: &Path,
        parent: Option<ModuleId>,
        items: &[Item],
    ) -> Result<ModuleId> {
        let mut reader = Reader::default();
        items.iter().for_each(|item| reader.visit_item(item));
        reader.module.file = file;
        reader.module.parent = parent;
        self.files[file].structs.append(&mut reader.structs);
        self.modules.push(reader.module);
        let id = self.modules.len() - 1;
        for declared in reader.declared {
            let name = declared.ident.to_string();
            let folder = folder.join(&name);
            let child = match &declared.content {
                Some((_, items)) => self.read_module(base, file, &folder, Some(id), items)?,
                None => {
                    let path = path_of(&folder)?;
                    self.read_file(base, &path, &folder, Some(id))?
                }
            };
            self.modules[id].children.insert(name, child);
        }
        Ok(id)
    }
}

/// The file of a module whose own modules lie in `folder`.
fn path_of(folder: &Path) -> Result<PathBuf> {
    let candidates = [folder.with_extension("rs"), folder.join("mod.rs")];
    let there = candidates.iter().find(|path| path.is_file());
    let path = there.with_context(|| format!("no file of the module {}", folder.display()))?;
    ensure!(
        !candidates.iter().all(|path| path.is_file()),
        "{} has two files",
        folder.display()
    );
    Ok(path.clone())
}

/// Collects what one module consists of.
#[derive(Default)]
struct Reader<'a> {
    module: Module,
    declared: Vec<&'a ItemMod>,
    structs: Vec<(String, usize)>,
}

impl<'a> Visit<'a> for Reader<'a> {
    fn visit_item(&mut self, item: &'a Item) {
        if is_for_tests(attributes(item)) {
            return;
        }
        if let Some(name) = name(item) {
            self.module.items.insert(name);
        }
        visit::visit_item(self, item);
    }

    /// Only noted: its content belongs to a module of its own.
    fn visit_item_mod(&mut self, item: &'a ItemMod) {
        self.declared.push(item);
    }

    fn visit_item_struct(&mut self, item: &'a syn::ItemStruct) {
        // One that describes bytes has as many fields as they have.
        if !item.attrs.iter().any(|it| it.path().is_ident("repr")) {
            let number = item.fields.len();
            self.structs.push((item.ident.to_string(), number));
        }
        visit::visit_item_struct(self, item);
    }

    fn visit_item_use(&mut self, item: &'a ItemUse) {
        let is_private = matches!(item.vis, Visibility::Inherited);
        self.import(&item.tree, Names::new(), is_private);
    }

    fn visit_item_impl(&mut self, item: &'a ItemImpl) {
        if let (None, syn::Type::Path(path)) = (&item.trait_, &*item.self_ty) {
            self.module.implemented.insert(names(&path.path));
        }
        visit::visit_item_impl(self, item);
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        self.module.mentioned.insert(names(path));
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'a Macro) {
        self.scan(item.tokens.clone());
        visit::visit_macro(self, item);
    }

    /// `pub(in path)` uses nothing.
    fn visit_visibility(&mut self, _: &'a Visibility) {}

    fn visit_attribute(&mut self, _: &'a Attribute) {}
}

impl Reader<'_> {
    /// Notes what a `use` brings, below the path that was read so far.
    fn import(&mut self, tree: &UseTree, mut path: Names, is_private: bool) {
        let (name, local) = match tree {
            UseTree::Path(tree) => {
                path.push(tree.ident.to_string());
                return self.import(&tree.tree, path, is_private);
            }
            UseTree::Group(group) => {
                let trees = group.items.iter();
                return trees.for_each(|tree| self.import(tree, path.clone(), is_private));
            }
            UseTree::Glob(_) => return self.module.globs.push(path),
            UseTree::Name(tree) => (tree.ident.to_string(), tree.ident.to_string()),
            UseTree::Rename(tree) => (tree.ident.to_string(), tree.rename.to_string()),
        };
        // `use a::b::{self}` means `a::b`, under the name of `b`.
        let local = match (name.as_str(), path.last()) {
            ("self", Some(last)) if local == "self" => last.clone(),
            _ => local,
        };
        if name != "self" {
            path.push(name);
        }
        match is_private {
            true => self.module.mentioned.insert(path.clone()),
            false => self.module.exported.insert(path.clone()),
        };
        self.module.imports.insert(local, path);
    }

    /// Notes what in the arguments of a macro looks like a path.
    fn scan(&mut self, tokens: TokenStream) {
        let mut path = Names::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Ident(ident) if colons == 2 && !path.is_empty() => {
                    path.push(ident.to_string());
                    colons = 0;
                }
                other => {
                    self.module.mentioned.insert(std::mem::take(&mut path));
                    colons = 0;
                    match other {
                        TokenTree::Ident(ident) => path.push(ident.to_string()),
                        TokenTree::Group(group) => self.scan(group.stream()),
                        TokenTree::Punct(_) | TokenTree::Literal(_) => {}
                    }
                }
            }
        }
        self.module.mentioned.insert(path);
    }
}

fn names(path: &syn::Path) -> Names {
    let segments = path.segments.iter();
    segments.map(|it| it.ident.to_string()).collect()
}

/// Whether an item is there in tests only.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let condition = attribute.parse_args::<syn::Path>();
        attribute.path().is_ident("cfg") && condition.is_ok_and(|it| it.is_ident("test"))
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// The name by which other modules use an item.
fn name(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(ident.to_string())
}
