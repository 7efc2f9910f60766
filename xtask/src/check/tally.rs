//! Counts what passed, failed and was skipped.

use anyhow::Result;

/// A number of tests, by how they ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) passed: usize,
    pub(super) failed: usize,
    /// The lines by which tests said that they could not run.
    pub(super) reasons: Vec<String>,
    /// Tests that are marked to be ignored.
    ignored: usize,
}

impl Tally {
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
        self.ignored += other.ignored;
        self.reasons.extend(other.reasons);
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let skipped = self.ignored + self.reasons.len();
        write!(
            f,
            "{} passed, {} failed, {skipped} skipped",
            self.passed, self.failed
        )
    }
}

/// What `cargo test` has said so far.
#[derive(Debug, Default)]
pub(super) struct Transcript {
    tally: Tally,
}

impl Transcript {
    /// Takes in one line.
    pub(super) fn read(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.tally.passed += count(counts, "passed");
            self.tally.failed += count(counts, "failed");
            self.tally.ignored += count(counts, "ignored");
        } else if let Some(start) = line.find("SKIPPED: ") {
            // The test runner may have begun the line: `test NAME ... SKIPPED: ...`.
            self.tally.reasons.push(line[start..].to_owned());
        }
    }

    /// The sum, given whether the command as a whole succeeded.
    pub(super) fn tally(mut self, success: bool) -> Tally {
        // A test that skips itself passes as far as the test runner knows.
        self.tally.passed = self.tally.passed.saturating_sub(self.tally.reasons.len());
        if !success && self.tally.failed == 0 {
            // It failed before a test did: the tests did not compile, or one died.
            self.tally.failed = 1;
        }
        self.tally
    }
}

/// The number before a word: `ok. 3 passed; 0 failed; ...`.
fn count(counts: &str, word: &str) -> usize {
    let words: Vec<&str> = counts.split([' ', ';', '.']).collect();
    let pairs = words.windows(2).find(|pair| pair[1] == word);
    pairs.and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(lines: &[&str], success: bool) -> String {
        let mut transcript = Transcript::default();
        lines.iter().for_each(|line| transcript.read(line));
        transcript.tally(success).to_string()
    }

    #[test]
    fn the_results_of_all_binaries_are_summed() {
        let lines = [
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; \
             finished in 0.18s",
            "test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out",
        ];
        assert_eq!(tally(&lines, false), "13 passed, 2 failed, 1 skipped");
    }

    #[test]
    fn a_test_that_skips_itself_has_not_passed() {
        let lines = [
            "test expat::it_works ... SKIPPED: expat: no network",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out",
        ];
        assert_eq!(tally(&lines, true), "2 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn a_failure_without_a_failed_test_counts() {
        assert_eq!(
            tally(&["error: could not compile"], false),
            "0 passed, 1 failed, 0 skipped"
        );
    }
}
