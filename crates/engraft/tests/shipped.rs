//! What users get holds no hook of the tests.

use std::path::Path;
use std::process::Command;

/// A variable that somebody's shell happens to export must not end a command in the middle of a stop.
#[test]
fn the_command_that_is_shipped_has_no_test_hooks() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shipped");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args([
        "build",
        "--quiet",
        "--package",
        "engraft",
        "--bin",
        "engraft",
    ]);
    cargo.args(["--locked", "--target-dir"]).arg(&directory);
    // What this build was told does not concern that one.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") {
            cargo.env_remove(name);
        }
    }
    assert!(cargo.status().unwrap().success());
    let has = |program: &Path, text: &[u8]| {
        let bytes = std::fs::read(program).unwrap();
        bytes.windows(text.len()).any(|window| window == text)
    };
    let (shipped, tested) = (
        directory.join("debug/engraft"),
        Path::new(env!("CARGO_BIN_EXE_engraft")),
    );
    for name in ["ENGRAFT_PROCESS_DIE_AT", "ENGRAFT_PROCESS_FAIL_AT"] {
        assert!(has(tested, name.as_bytes()), "the tests need {name}");
        assert!(!has(&shipped, name.as_bytes()), "{name}");
    }
}
