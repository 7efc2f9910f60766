//! The story that `cargo xtask demo` tells, asserted.

use engraft_testkit::Engraft;
use xtask::cargo::{COMMAND, build_engraft};
use xtask::demo::story;

#[test]
fn the_story_of_the_demo_is_true() {
    let built = std::env::var_os(COMMAND);
    let command = built.map_or_else(|| build_engraft().unwrap(), Into::into);
    let engraft = Engraft::new(command);
    let mut told = Vec::new();
    let seen = story::tell(&engraft, &mut told).unwrap();

    assert!(seen.before.starts_with("hello") && seen.before.contains("password=swordfish"));
    assert_eq!(seen.patched, "hello");
    assert!(seen.crowd.old >= 100 && seen.crowd.new >= 100);
    assert_eq!((seen.crowd.wrong, seen.crowd.dropped), (0, 0));
    assert_eq!(seen.controllers, 0);
    assert_eq!(seen.constructor, "PLUGIN");
    assert!(seen.refusal.contains("honest-length"), "{}", seen.refusal);
    assert!(seen.changed_bytes > 0);
    assert_eq!(seen.changed_bytes_after, (0, 0));
    assert_eq!(seen.after, seen.before);

    // The story also told what was seen.
    let told = String::from_utf8(told).unwrap();
    for text in [&seen.before, &seen.refusal, "tried              -> PLUGIN"] {
        assert!(told.contains(text), "{text:?} is missing in:\n{told}");
    }
}
