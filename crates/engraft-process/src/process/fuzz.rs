//! Fuzz targets: whatever is in files of `/proc`, reading it ends without a panic.
//!
//! Names of threads and files are whatever a process likes.

use bolero::check;

use super::auxv::AuxiliaryVector;
use super::lock::parse_lock_owner;
use super::task::{parse_activity, parse_file_size_limit, parse_stat, parse_status};

fn read_all(text: &str) {
    let _ = parse_stat(text);
    let _ = parse_activity(text);
    let _ = parse_file_size_limit(text);
    let _ = parse_status(text);
    let _ = parse_lock_owner(text, "00:16:5678");
}

#[test]
fn any_bytes() {
    check!().with_iterations(2000).for_each(|bytes: &[u8]| {
        read_all(&String::from_utf8_lossy(bytes));
        let vector = AuxiliaryVector::parse(bytes);
        let _ = (vector.program_headers(), vector.word_size());
    });
}

/// Words that files of `/proc` have, and any others.
#[derive(Clone, Debug, bolero::TypeGenerator)]
enum Word {
    Known(u8),
    Number(i64),
    Hexadecimal(u64),
    Any(String),
    Line,
}

impl Word {
    fn text(&self) -> String {
        const KNOWN: [&str; 17] = [
            "1 (a) ) S",
            ")",
            "running",
            "-1",
            "0x",
            "Max file size",
            "unlimited",
            "NStgid:",
            "Tgid:",
            "Uid:",
            "TracerPid:",
            "Seccomp:",
            "CoreDumping:",
            "FLOCK",
            "->",
            "00:16:5678",
            ":",
        ];
        match self {
            Self::Known(index) => KNOWN[usize::from(*index) % KNOWN.len()].to_owned(),
            Self::Number(number) => number.to_string(),
            Self::Hexadecimal(number) => format!("{number:#x}"),
            Self::Any(text) => text.clone(),
            Self::Line => "\n".to_owned(),
        }
    }
}

#[test]
fn words_that_mean_something() {
    check!()
        .with_iterations(3000)
        .with_type::<Vec<Word>>()
        .for_each(|words| {
            let words: Vec<String> = words.iter().map(Word::text).collect();
            read_all(&words.join(" "));
        });
}
