//! What the documents show of the command line is what it says: they are run.
//!
//! After a wanted change, `TRYCMD=overwrite cargo test --package engraft --test documents` writes
//! the new output into the document, where a reviewer sees it.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;

#[test]
fn the_command_line_says_what_the_document_shows() {
    trycmd::TestCases::new()
        .register_bin("engraft", Path::new(env!("CARGO_BIN_EXE_engraft")))
        .case("../../docs/command-line.md");
}

#[test]
fn each_exit_code_is_documented() -> Result<()> {
    let document = include_str!("../../../../docs/exit-codes.md");
    let cells = document.lines().filter_map(|line| line.strip_prefix("| "));
    let documented = cells.filter_map(|line| line.split(' ').next()?.parse::<u8>().ok());
    let documented: BTreeSet<u8> = documented.collect();

    let source = include_str!("../../src/error/exit_code.rs");
    let constants = source.lines().filter_map(|line| {
        let (_, value) = line.strip_prefix("pub const ")?.split_once(": u8 = ")?;
        value.trim_end_matches(';').parse().ok()
    });
    // Success has no constant.
    let constants: BTreeSet<u8> = constants.chain([0]).collect();
    assert_eq!(documented, constants);
    assert!(constants.len() > 12, "only {constants:?} were found");
    Ok(())
}
