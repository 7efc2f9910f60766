//! Keeping the original's line numbers in fixed source.
//!
//! A fix that adds a line moves `__LINE__` in everything below it, and with it the code of every
//! function there that has an assert. `#line` directives after each change put the numbers right
//! again, so that only functions differ that the fix is about.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::Command;

/// Languages in which `#line` is understood.
const EXTENSIONS: [&str; 11] = [
    "c", "h", "cc", "hh", "cpp", "hpp", "cxx", "hxx", "C", "H", "inc",
];

/// True if [`renumbered`] knows what to do with a file.
pub(crate) fn is_supported(path: &Path) -> bool {
    path.extension()
        .is_some_and(|e| EXTENSIONS.iter().any(|known| e == OsStr::new(known)))
}

/// The text of `fixed` with directives that give every unchanged line the number it has in
/// `original`.
pub(crate) fn renumbered(original: &Path, fixed: &Path) -> io::Result<Vec<u8>> {
    let text = std::fs::read(fixed)?;
    Ok(insert(&text, &hunks(original, fixed)?))
}

/// From fixed line `after + 1` on, the original's number is `shift` more than the fixed one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hunk {
    after: i64,
    shift: i64,
}

/// The differences, as diff(1) sees them: a fix may apply at other lines than it says.
fn hunks(original: &Path, fixed: &Path) -> io::Result<Vec<Hunk>> {
    let output = Command::new("diff")
        .args(["--text", "--unified=0"])
        .args([original, fixed])
        .env("LC_ALL", "C")
        .output()?;
    Ok(output
        .stdout
        .split(|&byte| byte == b'\n')
        .filter_map(parse_header)
        .collect())
}

/// `@@ -a,b +c,d @@`; a count of 1 is left out, and with a count of 0 the line is the one before.
fn parse_header(line: &[u8]) -> Option<Hunk> {
    let text = std::str::from_utf8(line).ok()?;
    let mut fields = text.strip_prefix("@@ -")?.split(' ');
    let last = |field: &str| -> Option<i64> {
        let (start, count) = field.split_once(',').unwrap_or((field, "1"));
        let (start, count): (i64, i64) = (start.parse().ok()?, count.parse().ok()?);
        Some(if count == 0 { start } else { start + count - 1 })
    };
    let original = last(fields.next()?)?;
    let fixed = last(fields.next()?.strip_prefix('+')?)?;
    Some(Hunk {
        after: fixed,
        shift: original - fixed,
    })
}

fn insert(text: &[u8], hunks: &[Hunk]) -> Vec<u8> {
    let mut result = Vec::with_capacity(text.len() + 1024);
    let mut scanner = Scanner::default();
    let mut hunks = hunks.iter().peekable();
    let mut shift = 0;
    let mut wanted = false;
    for (line, number) in text.split_inclusive(|&byte| byte == b'\n').zip(1i64..) {
        while let Some(hunk) = hunks.next_if(|hunk| hunk.after < number) {
            wanted |= hunk.shift != shift;
            shift = hunk.shift;
        }
        if wanted && scanner.is_between_lines() {
            result.extend_from_slice(format!("#line {}\n", number + shift).as_bytes());
            wanted = false;
        }
        result.extend_from_slice(line);
        scanner.scan(line);
        // A directive inside a group that is skipped has no effect, so it is repeated after the
        // group.
        wanted |= shift != 0 && is_conditional(line);
    }
    result
}

fn is_conditional(line: &[u8]) -> bool {
    let Some(directive) = line.trim_ascii_start().strip_prefix(b"#") else {
        return false;
    };
    let directive = directive.trim_ascii_start();
    [&b"endif"[..], b"else", b"elif"]
        .iter()
        .any(|word| directive.starts_with(word))
}

/// Follows C's lexical structure over line ends, as far as a directive must not cut it.
#[derive(Default)]
struct Scanner {
    in_comment: bool,
    continued: bool,
    /// The quote of a literal that continues on the next line.
    quote: Option<u8>,
    /// Open parentheses: a directive among a macro's arguments is undefined.
    depth: i64,
}

impl Scanner {
    fn is_between_lines(&self) -> bool {
        !self.in_comment && !self.continued && self.quote.is_none() && self.depth == 0
    }

    fn scan(&mut self, line: &[u8]) {
        let line = line.trim_ascii_end();
        let was_continued = self.continued;
        self.continued = line.ends_with(b"\\");
        let is_directive = line.trim_ascii_start().starts_with(b"#");
        if !was_continued && !self.in_comment && (is_directive || line.first() == Some(&b'}')) {
            // The branches of a conditional need not balance; a function's end does.
            self.depth = 0;
        }
        let depth = self.depth;
        self.tokens(line);
        if is_directive {
            self.depth = depth;
        }
        if !self.continued {
            self.quote = None;
        }
    }

    fn tokens(&mut self, line: &[u8]) {
        let mut rest = line.iter().copied().peekable();
        while let Some(byte) = rest.next() {
            let next = rest.peek().copied();
            if self.in_comment {
                if byte == b'*' && next == Some(b'/') {
                    rest.next();
                    self.in_comment = false;
                }
                continue;
            }
            if let Some(quote) = self.quote {
                if byte == b'\\' {
                    rest.next();
                } else if byte == quote {
                    self.quote = None;
                }
                continue;
            }
            match (byte, next) {
                (b'/', Some(b'*')) => {
                    rest.next();
                    self.in_comment = true;
                }
                (b'/', Some(b'/')) => return,
                (b'"' | b'\'', _) => self.quote = Some(byte),
                (b'(', _) => self.depth += 1,
                (b')', _) => self.depth = (self.depth - 1).max(0),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_hunk(text: &str, after: i64, shift: i64) -> String {
        String::from_utf8(insert(text.as_bytes(), &[Hunk { after, shift }])).unwrap()
    }

    #[test]
    fn headers_of_diff() {
        assert_eq!(
            parse_header(b"@@ -10 +10,3 @@"),
            Some(Hunk {
                after: 12,
                shift: -2
            })
        );
        assert_eq!(
            parse_header(b"@@ -10,0 +11,2 @@"),
            Some(Hunk {
                after: 12,
                shift: -2
            })
        );
        assert_eq!(
            parse_header(b"@@ -10,2 +9,0 @@ f()"),
            Some(Hunk { after: 9, shift: 2 })
        );
        assert_eq!(parse_header(b"-@@ -10,2 +9,0 @@"), None);
    }

    #[test]
    fn after_the_hunk() {
        assert_eq!(
            with_hunk("a;\nnew;\nb;\n", 2, -1),
            "a;\nnew;\n#line 2\nb;\n"
        );
        assert_eq!(with_hunk("a;\nb;\n", 1, 0), "a;\nb;\n");
    }

    #[test]
    fn not_where_it_would_cut_something() {
        for (text, moved) in [
            (
                "new;\n/* x\n y */\nb;\n",
                "new;\n#line 1\n/* x\n y */\nb;\n",
            ),
            ("/* new\n y */\nb;\n", "/* new\n y */\n#line 2\nb;\n"),
            (
                "#define NEW \\\n x\nb;\n",
                "#define NEW \\\n x\n#line 2\nb;\n",
            ),
            ("f(new,\n x);\nb;\n", "f(new,\n x);\n#line 2\nb;\n"),
            (
                "s = \"( \\\" /*\";\nb;\n",
                "s = \"( \\\" /*\";\n#line 1\nb;\n",
            ),
            ("// ( \"\nb;\n", "// ( \"\n#line 1\nb;\n"),
        ] {
            assert_eq!(with_hunk(text, 1, -1), moved);
        }
    }

    #[test]
    fn again_after_a_group_that_may_be_skipped() {
        let text = "#if X\nnew;\n#endif\nb;\n";
        assert_eq!(
            with_hunk(text, 2, -1),
            "#if X\nnew;\n#line 2\n#endif\n#line 3\nb;\n"
        );
    }
}
