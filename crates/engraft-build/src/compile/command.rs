//! Understanding a compiler's command line, as far as a compile of our own needs it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::record::{ASSEMBLY, Inputs, Record, WITH_ARGUMENT};

/// The compile of one source file.
#[derive(Debug, Clone)]
pub(crate) struct Compile {
    pub(crate) record: Record,
    /// As the command line names it.
    pub(crate) source: PathBuf,
    /// What the build got from it, absolute: the object, or what was linked in the same command.
    pub(crate) product: PathBuf,
    /// True if the product is the object.
    pub(crate) makes_object: bool,
    /// A link to the source as it was then.
    pub(crate) kept: Option<PathBuf>,
}

/// What a compile is, whatever its outputs are called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Identity {
    compiler: PathBuf,
    directory: PathBuf,
    arguments: Vec<OsString>,
    source: PathBuf,
}

/// Those of them that only linking or dependency files are about.
const DROPPED_WITH_ARGUMENT: [&str; 15] = [
    "-o",
    "-MF",
    "-MT",
    "-MQ",
    "-l",
    "-L",
    "-T",
    "-Xlinker",
    "-z",
    "-u",
    "-e",
    "-aux-info",
    "-dumpbase",
    "-dumpbase-ext",
    "-dumpdir",
];

/// Options that make code which counts or checks.
const INSTRUMENTATION: [&str; 5] = [
    "--coverage",
    "-coverage",
    "-fprofile-arcs",
    "-ftest-coverage",
    "-fprofile-instr-generate",
];

/// The compiles that one start of a compiler stands for: one for each source file it names.
pub(crate) fn compiles(record: &Record) -> Vec<Compile> {
    let inputs = Inputs::of(&record.arguments);
    if !inputs.makes_code {
        return Vec::new();
    }
    let output = inputs.output.map(PathBuf::from);
    let compile = |(index, source): (usize, PathBuf)| {
        let object = PathBuf::from(source.file_name().unwrap_or_default()).with_extension("o");
        let default = if inputs.links { "a.out".into() } else { object };
        Compile {
            record: record.clone(),
            source,
            product: record.directory.join(output.as_ref().unwrap_or(&default)),
            makes_object: !inputs.links,
            kept: record
                .kept
                .get(index)
                .filter(|path| !path.as_os_str().is_empty())
                .cloned(),
        }
    };
    inputs
        .sources
        .into_iter()
        .enumerate()
        .map(compile)
        .collect()
}

impl Compile {
    /// The source file, absolute.
    pub(crate) fn source_path(&self) -> PathBuf {
        self.record.directory.join(&self.source)
    }

    /// What tells this compile from others.
    pub(crate) fn identity(&self) -> Identity {
        Identity {
            compiler: self.record.compiler.clone(),
            directory: self.record.directory.clone(),
            arguments: self.kept_arguments(),
            source: self.source.clone(),
        }
    }

    /// True if the last option about it asks for link-time optimisation.
    pub(crate) fn asks_for_lto(&self) -> bool {
        let about = |argument: &&OsString| {
            let bytes = argument.as_bytes();
            bytes == b"-flto" || bytes.starts_with(b"-flto=") || bytes == b"-fno-lto"
        };
        let last = self.record.arguments.iter().rfind(about);
        last.is_some_and(|argument| argument != "-fno-lto")
    }

    /// An option by which the compiler adds code that keeps accounts of its own in the program.
    pub(crate) fn instrumentation(&self) -> Option<String> {
        let adds = |argument: &&OsString| {
            let bytes = argument.as_bytes();
            INSTRUMENTATION
                .iter()
                .any(|option| bytes == option.as_bytes())
                || bytes.starts_with(b"-fsanitize=")
                || bytes.starts_with(b"-fprofile-generate")
        };
        let found = self.record.arguments.iter().find(adds);
        found.map(|argument| argument.to_string_lossy().into_owned())
    }

    /// True for assembly, whose functions no compiler option separates.
    pub(crate) fn is_assembly(&self) -> bool {
        self.source
            .extension()
            .is_some_and(|e| ASSEMBLY.iter().any(|a| e == *a))
    }

    /// The same compile, each function and variable in a section of its own, to another output.
    ///
    /// `tree` is where the source stands now and `home` where the user has it: what the compiler
    /// writes into strings (`__FILE__`) must read as it does in the user's binary.
    pub(crate) fn separated(&self, output: &Path, tree: &Path, home: &Path) -> Vec<OsString> {
        let mut command = self.kept_arguments();
        command.retain(|argument| !is_about_debug_files(argument.as_bytes()));
        command.push(joined("-fmacro-prefix-map=", tree, home.as_os_str()));
        command.extend(self.translated_prefix_maps(tree, home));
        // Types are compared by debugging information, which must not change the code.
        if !self.is_assembly() {
            command.push("-g2".into());
            command.extend((!self.is_clang()).then(|| "-fno-var-tracking-assignments".into()));
        }
        command.extend(
            ["-fno-lto", "-ffunction-sections", "-fdata-sections", "-c"].map(OsString::from),
        );
        command.push("-o".into());
        command.push(output.into());
        command.push(self.source.clone().into());
        command
    }

    fn is_clang(&self) -> bool {
        let name = self.record.compiler.file_name().unwrap_or_default();
        name.to_string_lossy().contains("clang")
    }

    /// The question which files the compile reads, answered on stdout by a rule of make.
    pub(crate) fn dependencies(&self) -> Vec<OsString> {
        let mut command = self.kept_arguments();
        command.push("-M".into());
        command.push(self.source.clone().into());
        command
    }

    /// All arguments but sources, outputs and what writes or reads other files beside them.
    fn kept_arguments(&self) -> Vec<OsString> {
        let mut kept = Vec::new();
        let mut arguments = self.record.arguments.iter();
        while let Some(argument) = arguments.next() {
            let bytes = argument.as_bytes();
            if DROPPED_WITH_ARGUMENT
                .iter()
                .any(|option| argument == option)
            {
                arguments.next();
            } else if WITH_ARGUMENT.iter().any(|option| argument == option) {
                kept.push(argument.clone());
                kept.extend(arguments.next().cloned());
            } else if !is_dropped(bytes) {
                kept.push(argument.clone());
            }
        }
        kept
    }

    /// `-ffile-prefix-map=HOME=.` in a configured tree names the user's directory, not ours.
    fn translated_prefix_maps(&self, tree: &Path, home: &Path) -> Vec<OsString> {
        let translated = |argument: &OsString| {
            let bytes = argument.as_bytes();
            let map = [&b"-ffile-prefix-map="[..], b"-fmacro-prefix-map="]
                .iter()
                .find_map(|option| bytes.strip_prefix(*option))?;
            let (old, new) = map.split_at(map.iter().position(|&byte| byte == b'=')?);
            let below = Path::new(OsStr::from_bytes(old)).strip_prefix(home).ok()?;
            let old = if below.as_os_str().is_empty() {
                tree.to_owned()
            } else {
                tree.join(below)
            };
            Some(joined(
                "-fmacro-prefix-map=",
                &old,
                OsStr::from_bytes(new.get(1..)?),
            ))
        };
        self.record
            .arguments
            .iter()
            .filter_map(translated)
            .collect()
    }
}

fn is_dropped(argument: &[u8]) -> bool {
    let is_input = !argument.starts_with(b"-");
    let dependencies = [&b"-MD"[..], b"-MMD", b"-MP", b"-MG"].contains(&argument)
        || argument.starts_with(b"-Wp,-MD")
        || argument.starts_with(b"-Wp,-MMD");
    let linking = argument.starts_with(b"-Wl,")
        || argument.starts_with(b"-l")
        || argument.starts_with(b"-L")
        || [&b"-shared"[..], b"-static", b"-rdynamic", b"-s"].contains(&argument);
    let output = argument.starts_with(b"-o") || argument.starts_with(b"-save-temps");
    let lto = argument.starts_with(b"-flto");
    is_input || dependencies || linking || output || lto || argument == b"-c"
}

/// Options that put debugging information elsewhere, or compress it.
fn is_about_debug_files(argument: &[u8]) -> bool {
    argument.starts_with(b"-gz")
        || argument == b"-gsplit-dwarf"
        || argument == b"-fdebug-types-section"
}

fn joined(option: &str, old: &Path, new: &OsStr) -> OsString {
    let mut argument = OsString::from(option);
    argument.push(old);
    argument.push("=");
    argument.push(new);
    argument
}
