//! One start of a compiler, as it is kept in a file.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// One start of a compiler.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    /// The real compiler.
    pub(crate) compiler: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) directory: PathBuf,
    pub(crate) environment: BTreeMap<OsString, OsString>,
    /// Links to the source files as they were, by their place on the command line: builds remove
    /// what they generate.
    pub(crate) kept: Vec<PathBuf>,
    time: u128,
}

/// A record as written: command lines and paths are bytes, not text.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredRecord {
    pub(super) compiler: Vec<u8>,
    pub(super) arguments: Vec<Vec<u8>>,
    pub(super) directory: Vec<u8>,
    pub(super) environment: Vec<(Vec<u8>, Vec<u8>)>,
    #[serde(default)]
    pub(super) kept: Vec<Vec<u8>>,
    pub(super) time: u128,
}

/// Every record of a directory, oldest first.
pub(crate) fn read_records(directory: &Path) -> io::Result<Vec<Record>> {
    let mut records = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        // A wrapper that was killed leaves a file of another name.
        if path.extension() == Some(OsStr::new("json")) {
            let stored: StoredRecord = serde_json::from_slice(&std::fs::read(path)?)?;
            records.push(Record::from(stored));
        }
    }
    records.sort_by_key(|record| record.time);
    Ok(records)
}

impl From<StoredRecord> for Record {
    fn from(stored: StoredRecord) -> Self {
        let text = OsString::from_vec;
        Self {
            compiler: text(stored.compiler).into(),
            arguments: stored.arguments.into_iter().map(text).collect(),
            directory: text(stored.directory).into(),
            environment: stored
                .environment
                .into_iter()
                .map(|(k, v)| (text(k), text(v)))
                .collect(),
            kept: stored
                .kept
                .into_iter()
                .map(|path| text(path).into())
                .collect(),
            time: stored.time,
        }
    }
}
