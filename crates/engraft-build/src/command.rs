//! Understanding a compiler's command line, as far as a compile of our own needs it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::record::Record;

/// The compile of one source file.
#[derive(Debug, Clone)]
pub(crate) struct Compile {
    pub(crate) record: Record,
    /// As the command line names it.
    pub(crate) source: PathBuf,
    /// Where the build put the object, absolute.
    pub(crate) output: PathBuf,
}

/// Options with a separate argument, so that the argument is not taken for a source file.
const WITH_ARGUMENT: [&str; 26] = [
    "-o",
    "-I",
    "-D",
    "-U",
    "-L",
    "-l",
    "-x",
    "-include",
    "-imacros",
    "-idirafter",
    "-iquote",
    "-isystem",
    "-iprefix",
    "-isysroot",
    "-MF",
    "-MT",
    "-MQ",
    "-Xlinker",
    "-Xassembler",
    "-Xpreprocessor",
    "-T",
    "--param",
    "-B",
    "-z",
    "-u",
    "-e",
];

/// Those of them that only linking or dependency files are about.
const DROPPED_WITH_ARGUMENT: [&str; 11] = [
    "-o", "-MF", "-MT", "-MQ", "-l", "-L", "-T", "-Xlinker", "-z", "-u", "-e",
];

/// Options after which nothing is compiled to an object.
const NO_OBJECT: [&str; 5] = ["-E", "-M", "-MM", "-S", "-fsyntax-only"];

const SOURCES: [&str; 9] = ["c", "cc", "cp", "cpp", "cxx", "c++", "C", "i", "ii"];
const ASSEMBLY: [&str; 2] = ["s", "S"];

/// The compiles that one start of a compiler stands for: one for each source file it names.
pub(crate) fn compiles(record: &Record) -> Vec<Compile> {
    if record
        .arguments
        .iter()
        .any(|argument| NO_OBJECT.iter().any(|no| argument == no))
    {
        return Vec::new();
    }
    let mut sources = Vec::new();
    let mut output = None;
    let mut links = true;
    let mut arguments = record.arguments.iter();
    while let Some(argument) = arguments.next() {
        if argument == "-c" {
            links = false;
        } else if argument == "-o" {
            output = arguments.next().cloned();
        } else if WITH_ARGUMENT.iter().any(|option| argument == option) {
            arguments.next();
        } else if let Some(attached) = argument.as_bytes().strip_prefix(b"-o") {
            output = Some(OsStr::from_bytes(attached).to_owned());
        } else if !argument.as_bytes().starts_with(b"-") && is_source(Path::new(argument)) {
            sources.push(PathBuf::from(argument));
        }
    }
    let compile = |source: PathBuf| {
        let default = PathBuf::from(source.file_name().unwrap_or_default()).with_extension("o");
        let named = output.clone().filter(|_| !links).map(PathBuf::from);
        let output = record.directory.join(named.unwrap_or(default));
        Compile {
            record: record.clone(),
            source,
            output,
        }
    };
    sources.into_iter().map(compile).collect()
}

fn is_source(path: &Path) -> bool {
    let known = |list: &[&str]| {
        path.extension()
            .is_some_and(|e| list.iter().any(|k| e == *k))
    };
    known(&SOURCES) || known(&ASSEMBLY)
}

impl Compile {
    /// The source file, absolute.
    pub(crate) fn source_path(&self) -> PathBuf {
        self.record.directory.join(&self.source)
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
        command.push(joined("-fmacro-prefix-map=", tree, home.as_os_str()));
        command.extend(self.translated_prefix_maps(tree, home));
        command.extend(
            [
                "-g0",
                "-fno-lto",
                "-ffunction-sections",
                "-fdata-sections",
                "-c",
            ]
            .map(OsString::from),
        );
        command.push("-o".into());
        command.push(output.into());
        command.push(self.source.clone().into());
        command
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

fn joined(option: &str, old: &Path, new: &OsStr) -> OsString {
    let mut argument = OsString::from(option);
    argument.push(old);
    argument.push("=");
    argument.push(new);
    argument
}
