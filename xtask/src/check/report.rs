//! The test runner's report about each test.

use std::time::Duration;

use anyhow::{Context, Result};
use roxmltree::{Document, Node};

use super::tally::Tally;

/// The tests of a run.
#[derive(Debug, Default)]
pub(super) struct Report {
    tests: Vec<Test>,
}

#[derive(Debug)]
struct Test {
    /// With its binary.
    name: String,
    took: Duration,
    failed: bool,
    /// The line by which it said that it could not run.
    skipped: Option<String>,
}

impl Report {
    /// Reads a report in the format of `JUnit`.
    pub(super) fn parse(xml: &str) -> Result<Self> {
        let document = Document::parse(xml).context("the report of the tests is damaged")?;
        let suites = document
            .descendants()
            .filter(|it| it.has_tag_name("testsuite"));
        let tests = suites.flat_map(|suite| {
            let binary = suite.attribute("name").unwrap_or_default();
            let cases = suite.children().filter(|it| it.has_tag_name("testcase"));
            cases.map(move |case| Test::parse(binary, case))
        });
        Ok(Self {
            tests: tests.collect(),
        })
    }

    pub(super) fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for test in &self.tests {
            match &test.skipped {
                _ if test.failed => tally.failed += 1,
                // A test that skips itself passes as far as the test runner knows.
                Some(reason) => tally.reasons.push(reason.clone()),
                None => tally.passed += 1,
            }
        }
        tally
    }

    /// The names of the tests that failed.
    pub(super) fn failed(&self) -> impl Iterator<Item = &str> {
        let failed = self.tests.iter().filter(|test| test.failed);
        failed.map(|test| test.name.as_str())
    }

    /// A line for each of the tests that took longest.
    pub(super) fn slowest(&self, number: usize) -> Vec<String> {
        let mut tests: Vec<&Test> = self.tests.iter().collect();
        tests.sort_by_key(|test| std::cmp::Reverse(test.took));
        let line = |test: &&Test| format!("{:>7.1} s  {}", test.took.as_secs_f32(), test.name);
        tests.iter().take(number).map(line).collect()
    }
}

impl Test {
    fn parse(binary: &str, case: Node<'_, '_>) -> Self {
        let seconds = case.attribute("time").and_then(|time| time.parse().ok());
        let has = |tag: &str| case.children().any(|it| it.has_tag_name(tag));
        let said = case.descendants().filter_map(|it| it.text());
        let mut lines = said.flat_map(str::lines);
        // libtest may have begun the line: `test NAME ... SKIPPED: ...`.
        let skipped = lines.find_map(|line| line.find("SKIPPED: ").map(|at| line[at..].to_owned()));
        Self {
            name: format!("{binary} {}", case.attribute("name").unwrap_or_default()),
            took: Duration::try_from_secs_f64(seconds.unwrap_or(0.0)).unwrap_or_default(),
            failed: has("failure") || has("error"),
            skipped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const XML: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="run" tests="4" failures="1" errors="1">
  <testsuite name="a::b" tests="4">
    <testcase name="quick" time="0.5"/>
    <testcase name="slow" time="61.25"><system-out>running 1 test
test slow ... ok</system-out></testcase>
    <testcase name="wrong" time="1"><failure type="test failure">SKIPPED: no</failure></testcase>
    <testcase name="hangs" time="2"><error type="timeout"/></testcase>
    <testcase name="cannot" time="0"><system-out>test cannot ... SKIPPED: cannot: no compiler
</system-out></testcase>
  </testsuite>
</testsuites>"#;

    #[test]
    fn tests_are_counted() {
        let report = Report::parse(XML).unwrap();
        let tally = report.tally();
        assert_eq!(tally.to_string(), "2 passed, 2 failed, 1 skipped");
        assert_eq!(tally.reasons, ["SKIPPED: cannot: no compiler"]);
        assert_eq!(
            report.failed().collect::<Vec<_>>(),
            ["a::b wrong", "a::b hangs"]
        );
        assert_eq!(report.slowest(1), ["   61.2 s  a::b slow"]);
    }

    #[test]
    fn a_damaged_report_is_an_error() {
        assert!(Report::parse("<testsuites>").is_err());
    }
}
