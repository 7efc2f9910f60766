//! The commands that the documents show are ones that the command line understands. They are not
//! run: most of them would change processes of this machine.

use std::fs;
use std::path::Path;

use clap::Parser;

use super::CommandLine;

/// The indented lines of a document that begin with `engraft`, without their comments.
fn commands(text: &str) -> impl Iterator<Item = &str> {
    let indented = text.lines().filter_map(|line| line.strip_prefix("    "));
    let commands = indented.filter(|line| line.starts_with("engraft "));
    commands.map(|line| line.split(" #").next().unwrap_or(line).trim_end())
}

#[test]
fn the_command_line_understands_what_the_documents_show() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let documents = fs::read_dir(root.join("docs")).unwrap();
    let documents = documents.map(|entry| entry.unwrap().path());
    let pages = documents.filter(|path| path.extension().is_some_and(|it| it == "md"));
    let mut checked = 0;
    for page in pages.chain([root.join("README.md")]) {
        for command in commands(&fs::read_to_string(&page).unwrap()) {
            let parsed = CommandLine::try_parse_from(command.split_whitespace());
            assert!(parsed.is_ok(), "{}: {command}: {parsed:?}", page.display());
            checked += 1;
        }
    }
    assert!(checked > 10, "only {checked} commands were found");
}

#[test]
fn a_command_ends_where_its_comment_begins() {
    let text = "Text.\n\n    engraft wait fix   # waits\n    cargo test\nengraft wait\n";
    assert_eq!(commands(text).collect::<Vec<_>>(), ["engraft wait fix"]);
}
