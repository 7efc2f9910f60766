//! A small C project with a Makefile, its binary, and fixes made by editing.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use engraft_build::{
    BuildError, BuildOutcome, BuildReport, BuildRequest, Progress, Refusal, build,
};
use engraft_patch::{Function, LinkAddress, Object, Patch, RelocationTarget};
use tempfile::TempDir;

pub(crate) const PIE: &str = "program: main.o part.o\n\t$(CC) -o $@ $^ -Wl,--build-id\n";
pub(crate) const NO_PIE: &str =
    "program: main.o part.o\n\t$(CC) -no-pie -o $@ $^ -Wl,--build-id\nCFLAGS += -fno-pie\n";
pub(crate) const LIBRARY: &str =
    "libpart.so: part.o\n\t$(CC) -shared -o $@ $^ -Wl,--build-id\nCFLAGS += -fPIC\n";
const RULES: &str = "CFLAGS += -O2 -g -Wall\n";

pub(crate) const MAIN: &str =
    "int part(int);\nint main(int c, char **v) { (void)v; return part(c); }\n";

pub(crate) struct Project {
    root: TempDir,
    original: Vec<(String, String)>,
}

impl Project {
    /// `part.c` with a `main.c` that calls `int part(int)`, built by `makefile`.
    pub(crate) fn new(makefile: &str, part: &str) -> Self {
        Self::with_files(makefile, &[("main.c", MAIN), ("part.c", part)])
    }

    pub(crate) fn with_files(makefile: &str, files: &[(&str, &str)]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut all = vec![("Makefile".to_owned(), format!("{makefile}{RULES}"))];
        all.extend(
            files
                .iter()
                .map(|(name, text)| ((*name).to_owned(), (*text).to_owned())),
        );
        fs::create_dir(root.path().join("source")).unwrap();
        for (name, text) in &all {
            fs::write(root.path().join("source").join(name), text).unwrap();
        }
        let project = Self {
            root,
            original: all,
        };
        project.run("make", &[]);
        project
    }

    pub(crate) fn source(&self) -> PathBuf {
        self.root.path().join("source")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.source().join(name)
    }

    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(self.source())
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A fix that replaces text in files.
    pub(crate) fn fix(&self, edits: &[(&str, &str, &str)]) -> PathBuf {
        let new = self.root.path().join("new");
        fs::create_dir_all(&new).unwrap();
        for (name, text) in &self.original {
            let mut text = text.clone();
            for (_, from, to) in edits.iter().filter(|(file, ..)| file == name) {
                assert!(text.contains(from), "{from}");
                text = text.replacen(from, to, 1);
            }
            fs::write(new.join(name), text).unwrap();
        }
        let mut fix = Vec::new();
        for (name, _) in &self.original {
            let output = Command::new("diff")
                .args(["-u", &format!("source/{name}"), &format!("new/{name}")])
                .current_dir(self.root.path())
                .output()
                .unwrap();
            fix.extend(output.stdout);
        }
        let path = self.root.path().join("fix.patch");
        fs::write(&path, fix).unwrap();
        path
    }

    pub(crate) fn request(&self, fix: &Path, binaries: &[&str]) -> BuildRequest {
        BuildRequest {
            source: self.source(),
            fix: fix.to_owned(),
            binaries: binaries.iter().map(|name| self.file(name)).collect(),
            name: None,
            command: vec![OsString::from("make")],
            wrapper: env!("CARGO_BIN_EXE_engraft-build-test-wrapper").into(),
            output: None,
            partial: false,
            accept_layouts: Vec::new(),
            log: None,
            keep: false,
            progress: Progress::default(),
        }
    }

    pub(crate) fn try_build(
        &self,
        edits: &[(&str, &str, &str)],
        binary: &str,
    ) -> Result<BuildReport, BuildError> {
        build(&self.request(&self.fix(edits), &[binary]))
    }

    /// The patch of a fix that is known to work out, for one binary.
    pub(crate) fn build(&self, edits: &[(&str, &str, &str)], binary: &str) -> Object {
        let patch = patch(
            self.try_build(edits, binary)
                .unwrap_or_else(|error| panic!("{error}")),
        );
        let [object] = patch.objects.try_into().unwrap();
        object
    }

    /// The reasons that a fix is refused for.
    pub(crate) fn refusals(&self, edits: &[(&str, &str, &str)], binary: &str) -> Vec<Refusal> {
        match self.try_build(edits, binary) {
            Err(BuildError::Refused { refusals }) => refusals,
            other => panic!("{other:?}"),
        }
    }

    /// The address and size of a symbol, as nm sees it.
    pub(crate) fn symbol(&self, binary: &str, name: &str) -> (u64, u64) {
        let all = self.symbols(binary, name);
        assert_eq!(all.len(), 1, "{name}");
        all[0]
    }

    pub(crate) fn symbols(&self, binary: &str, name: &str) -> Vec<(u64, u64)> {
        let table = self.run("nm", &["-S", "--defined-only", binary]);
        let hex = |text: &str| u64::from_str_radix(text, 16).unwrap();
        table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|fields| fields.len() == 4 && fields[3].split('.').next() == Some(name))
            .map(|fields| (hex(fields[0]), hex(fields[1])))
            .collect()
    }
}

pub(crate) fn patch(report: BuildReport) -> Patch {
    match report.outcome {
        BuildOutcome::Patch { patch, file } => {
            assert_eq!(
                engraft_patch::read(&file).unwrap().objects.len(),
                patch.objects.len()
            );
            patch
        }
        BuildOutcome::NoChange => panic!("no change"),
    }
}

pub(crate) fn names(object: &Object) -> Vec<&str> {
    let mut names: Vec<_> = object.functions.iter().map(|f| f.name.as_str()).collect();
    names.sort_unstable();
    names
}

pub(crate) fn function<'o>(object: &'o Object, name: &str) -> &'o Function {
    object
        .functions
        .iter()
        .find(|function| function.name == name)
        .unwrap()
}

/// The address that references to a name of the old binary have.
pub(crate) fn referenced(object: &Object, wanted: &str) -> Option<u64> {
    object
        .image
        .relocations
        .iter()
        .find_map(|relocation| match &relocation.target {
            RelocationTarget::Object {
                name,
                address: LinkAddress(address),
            } if name == wanted => Some(*address),
            _ => None,
        })
}

pub(crate) fn imports(object: &Object) -> Vec<String> {
    let targets = object
        .image
        .relocations
        .iter()
        .map(|relocation| &relocation.target);
    targets
        .filter_map(|target| match target {
            RelocationTarget::Import(import) => Some(import.name.clone()),
            _ => None,
        })
        .collect()
}
