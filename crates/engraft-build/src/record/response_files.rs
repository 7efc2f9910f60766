//! Response files: `@FILE` on a compiler's command line stands for the arguments in FILE, which may
//! be gone when the build is over.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

/// How deep files may name further ones, as in GCC.
const LIMIT: usize = 100;

/// The arguments with those of all response files in their place. What cannot be read stays as it
/// is, as compilers have it.
pub(super) fn expand(arguments: &[OsString]) -> Vec<OsString> {
    expand_to(arguments, LIMIT)
}

fn expand_to(arguments: &[OsString], limit: usize) -> Vec<OsString> {
    let mut expanded = Vec::new();
    for argument in arguments {
        let file = argument.as_bytes().strip_prefix(b"@");
        let text = file
            .filter(|_| limit > 0)
            .and_then(|file| std::fs::read(Path::new(std::ffi::OsStr::from_bytes(file))).ok());
        match text {
            Some(text) => expanded.extend(expand_to(&words(&text), limit.saturating_sub(1))),
            None => expanded.push(argument.clone()),
        }
    }
    expanded
}

/// The words of a response file: separated by white space, with quotes and backslashes to keep it
/// in a word.
fn words(text: &[u8]) -> Vec<OsString> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut quote = None;
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        match (byte, quote) {
            (b'\\', _) => word.get_or_insert_default().extend(bytes.next()),
            (_, Some(open)) if byte == open => quote = None,
            (b'"' | b'\'', None) => {
                quote = Some(byte);
                word.get_or_insert_default();
            }
            (_, None) if byte.is_ascii_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word);
    words.into_iter().map(OsString::from_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_response_file() {
        let text = b"-DA=\"x y\" 'a b.c'\n-o a\\ b.o \"\"\n";
        assert_eq!(words(text), ["-DA=x y", "a b.c", "-o", "a b.o", ""]);
    }

    #[test]
    fn files_that_name_files() {
        let directory = tempfile::tempdir().unwrap();
        let (inner, outer) = (
            directory.path().join("inner"),
            directory.path().join("outer"),
        );
        std::fs::write(&inner, "-c x.c").unwrap();
        std::fs::write(&outer, format!("-O2 @{}", inner.display())).unwrap();
        let arguments = [format!("@{}", outer.display()), "@none".to_owned()].map(OsString::from);
        assert_eq!(expand(&arguments), ["-O2", "-c", "x.c", "@none"]);
    }
}
