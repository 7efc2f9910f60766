//! Counts what passed, failed and was skipped.

use anyhow::Result;

/// A number of tests, by how they ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) passed: usize,
    pub(super) failed: usize,
    /// The lines by which tests said that they could not run.
    pub(super) reasons: Vec<String>,
}

impl Tally {
    /// A step that could not be done; says why.
    pub(super) fn of_skipped(reason: &str) -> Self {
        let reason = format!("SKIPPED: {reason}");
        println!("{reason}");
        Self {
            reasons: vec![reason],
            ..Self::default()
        }
    }

    /// A step that is one test; says why it failed.
    pub(super) fn of_one(result: &Result<()>) -> Self {
        match result {
            Ok(()) => Self {
                passed: 1,
                ..Self::default()
            },
            Err(error) => {
                println!("{error:#}");
                Self {
                    failed: 1,
                    ..Self::default()
                }
            }
        }
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.reasons.extend(other.reasons);
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let skipped = self.reasons.len();
        write!(
            f,
            "{} passed, {} failed, {skipped} skipped",
            self.passed, self.failed
        )
    }
}
