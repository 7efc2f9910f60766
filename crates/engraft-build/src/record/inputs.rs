//! What a compiler's command line is about: its source files and its output.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Options with a separate argument, so that the argument is not taken for a source file.
pub(crate) const WITH_ARGUMENT: [&str; 39] = [
    "-o",
    "-specs",
    "--specs",
    "-A",
    "-aux-info",
    "-dumpbase",
    "-dumpbase-ext",
    "-dumpdir",
    "-imultilib",
    "-iwithprefix",
    "-iwithprefixbefore",
    "-target",
    "-Xclang",
    "-wrapper",
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

/// Options after which nothing is compiled to an object.
const NO_OBJECT: [&str; 5] = ["-E", "-M", "-MM", "-S", "-fsyntax-only"];

const SOURCES: [&str; 9] = ["c", "cc", "cp", "cpp", "cxx", "c++", "C", "i", "ii"];
pub(crate) const ASSEMBLY: [&str; 2] = ["s", "S"];

/// The source files that a command line names.
pub(super) fn sources(arguments: &[OsString]) -> Vec<PathBuf> {
    Inputs::of(arguments).sources
}

/// What a command line is about.
pub(crate) struct Inputs {
    pub(crate) sources: Vec<PathBuf>,
    pub(crate) output: Option<OsString>,
    /// The objects are linked at once.
    pub(crate) links: bool,
    /// False if only the preprocessor runs, or assembly is wanted.
    pub(crate) makes_code: bool,
}

impl Inputs {
    pub(crate) fn of(arguments: &[OsString]) -> Self {
        let mut inputs = Self {
            sources: Vec::new(),
            output: None,
            links: true,
            makes_code: true,
        };
        // `-x c` makes every file that follows a source, whatever its name.
        let mut any_name = false;
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let bytes = argument.as_bytes();
            if argument == "-c" {
                inputs.links = false;
            } else if NO_OBJECT.iter().any(|no| argument == no) {
                inputs.makes_code = false;
            } else if argument == "-o" {
                inputs.output = arguments.next().cloned();
            } else if argument == "-x" {
                any_name = arguments.next().is_some_and(|language| language != "none");
            } else if WITH_ARGUMENT.iter().any(|option| argument == option) {
                arguments.next();
            } else if let Some(language) = bytes.strip_prefix(b"-x") {
                any_name = language != b"none";
            } else if let Some(attached) = bytes.strip_prefix(b"-o") {
                inputs.output = Some(OsStr::from_bytes(attached).to_owned());
            } else if !bytes.starts_with(b"-") && (any_name || is_source(Path::new(argument))) {
                inputs.sources.push(PathBuf::from(argument));
            }
        }
        inputs
    }
}

fn is_source(path: &Path) -> bool {
    let known = |list: &[&str]| {
        path.extension()
            .is_some_and(|e| list.iter().any(|k| e == *k))
    };
    known(&SOURCES) || known(&ASSEMBLY)
}
