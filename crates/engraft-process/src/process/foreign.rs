//! Foreign text: names and paths that a process, a file or another user has chosen.
//!
//! Such text is escaped here before it is shown. Raw, it could move the cursor of a terminal, forge
//! lines of ours, or change the direction of writing.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Whether a terminal shows a character as what it is. It does not for controls (C0, C1, line
/// breaks), marks of direction, characters without width, and private and unassigned ones.
fn is_plain(character: char) -> bool {
    // `escape_debug` escapes quotes and backslashes for another reason.
    matches!(character, '\'' | '"' | '\\') || character.escape_debug().len() == 1
}

/// The text with every character escaped that is not shown as what it is: `\u{1b}`, `\n`. To escape
/// text twice is the same as once.
pub fn escape(text: &str) -> String {
    escape_but(text, |_| false)
}

/// Escapes text of several lines: line breaks stay.
pub fn escape_lines(text: &str) -> String {
    escape_but(text, |character| character == '\n')
}

/// Escapes bytes as text; bytes that are not UTF-8 are replaced.
pub fn escape_bytes(bytes: &[u8]) -> String {
    escape(&String::from_utf8_lossy(bytes))
}

/// The same for names of files.
pub fn escape_name(name: impl AsRef<OsStr>) -> String {
    escape_bytes(name.as_ref().as_bytes())
}

fn escape_but(text: &str, keep: impl Fn(char) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match is_plain(character) || keep(character) {
            true => escaped.push(character),
            false => escaped.extend(character.escape_debug()),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_show_as_what_it_is_is_escaped() {
        for (raw, shown) in [
            ("libc.so.6", "libc.so.6"),
            ("it's \"a\\b\" größe 日本", "it's \"a\\b\" größe 日本"),
            ("\u{1b}[2J", "\\u{1b}[2J"),
            ("a\nprocess 1: patched\r", "a\\nprocess 1: patched\\r"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("\u{202e}txt\u{200b}", "\\u{202e}txt\\u{200b}"),
            ("\u{2028}\u{2066}\u{feff}", "\\u{2028}\\u{2066}\\u{feff}"),
        ] {
            assert_eq!(escape(raw), shown);
            assert_eq!(escape(shown), shown, "twice");
        }
        assert_eq!(escape_bytes(b"\xff\x1b"), "\u{fffd}\\u{1b}");
        assert_eq!(escape_lines("a\n\x07"), "a\n\\u{7}");
    }
}
