//! The one door to the terminal. Everything is fit to be shown by then; whatever was forgotten is escaped here.

use std::io::Write as _;

use engraft::Error;
use engraft_process::foreign::{escape, escape_lines};

/// Writes data to stdout, in lines. Whoever reads it may have seen enough and gone; that is no failure of ours.
pub(crate) fn say(text: &str) {
    let _ = std::io::stdout().write_all(escape_lines(text).as_bytes());
}

/// Says in one line on stderr what the user should know.
pub(crate) fn note(text: &str) {
    line("note", text);
}

/// Says on stderr what went wrong.
pub(crate) fn complain(error: &Error) {
    let text = error.to_string();
    match error {
        // What compilers say has lines.
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

/// Where the log goes: what is logged is foreign, too.
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
