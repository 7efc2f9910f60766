//! All output to the terminal. Foreign text is escaped before it comes here; what was forgotten is
//! escaped here.

use std::io::Write as _;

use engraft::Error;
use engraft_process::foreign::{escape, escape_lines};

/// Writes data to stdout, in lines. An error is ignored: the reader may have closed the pipe after
/// it has read enough.
pub(crate) fn say(text: &str) {
    let _ = std::io::stdout().write_all(escape_lines(text).as_bytes());
}

/// Writes a note to stderr, in one line.
pub(crate) fn note(text: &str) {
    line("note", text);
}

/// Writes an error and its hint to stderr.
pub(crate) fn complain(error: &Error) {
    let text = error.to_string();
    match error {
        // The output of compilers has several lines.
        Error::Build(_) => write(&format!("error: {}\n", escape_lines(&text))),
        _ => line("error", &text),
    }
    if let Some(hint) = error.hint() {
        line("hint", hint);
    }
}

fn line(kind: &str, text: &str) {
    write(&format!("{kind}: {}\n", escape(text)));
}

fn write(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// The output of the log to stderr, escaped: it has foreign text, too.
pub(crate) struct Log;

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        // The log writes whole lines.
        write(&escape_lines(&String::from_utf8_lossy(bytes)));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
