//! What was measured, as a table: one for the terminal, and the same for the page of documentation.

use std::fmt::Write as _;

use super::statistics::Sample;

/// Measurements of one kind.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) title: &'static str,
    /// What was done and what is counted, for the page.
    pub(super) meaning: &'static str,
    pub(super) rows: Vec<Row>,
}

/// One figure.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) what: String,
    pub(super) unit: &'static str,
    /// The figure of each process; `None` where there was nothing to measure.
    pub(super) sample: Option<Sample>,
    /// The goal, in the row's unit.
    pub(super) reach: Option<String>,
}

impl Row {
    pub(super) fn new(
        what: impl Into<String>,
        unit: &'static str,
        figures: impl IntoIterator<Item = f64>,
    ) -> Self {
        Self {
            what: what.into(),
            unit,
            sample: Sample::new(figures),
            reach: None,
        }
    }

    pub(super) fn reaching(self, reach: impl Into<String>) -> Self {
        Self {
            reach: Some(reach.into()),
            ..self
        }
    }

    /// Its cells, as in [`HEADS`].
    fn cells(&self) -> [String; 5] {
        let (median, range) = match &self.sample {
            Some(sample) => {
                let [median, least, most] =
                    [sample.median(), sample.least(), sample.most()].map(number);
                (median, format!("{least} to {most}"))
            }
            None => ("not available".to_owned(), String::new()),
        };
        let reach = self.reach.clone().unwrap_or_default();
        [
            self.what.clone(),
            self.unit.to_owned(),
            median,
            range,
            reach,
        ]
    }
}

const HEADS: [&str; 5] = ["what", "unit", "median", "range", "to reach"];

/// As many digits as mean something.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size < 10.0 => 3,
        size if size < 100.0 => 1,
        _ => 0,
    };
    // No "-0".
    format!("{:.digits$}", value + 0.0)
}

impl Section {
    /// For a terminal.
    pub(super) fn text(&self) -> String {
        let cells: Vec<_> = self.rows.iter().map(Row::cells).collect();
        let width = |column: usize| {
            let widths = cells.iter().map(|row| row[column].chars().count());
            widths.chain([HEADS[column].len()]).max().unwrap_or(0)
        };
        let widths: [usize; 5] = std::array::from_fn(width);
        let mut text = format!("\n{}\n", self.title);
        for row in std::iter::once(HEADS.map(str::to_owned)).chain(cells.iter().cloned()) {
            let columns: Vec<_> = row
                .iter()
                .zip(widths)
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{}", columns.join("  ").trim_end());
        }
        text
    }

    /// For the page.
    pub(super) fn markdown(&self) -> String {
        let mut text = format!("\n## {}\n\n{}\n\n", self.title, self.meaning);
        let _ = writeln!(text, "| {} |\n|---|---|---:|---:|---|", HEADS.join(" | "));
        for row in &self.rows {
            let _ = writeln!(text, "| {} |", row.cells().join(" | "));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section() -> Section {
        Section {
            title: "Calls",
            meaning: "One call.",
            rows: vec![
                Row::new("patched", "ns", [3.25, 12.34, 1.0]).reaching("under 5"),
                Row::new("in transition", "ns", []),
            ],
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let expected = "
Calls
what           unit  median         range          to reach
patched        ns    3.250          1.000 to 12.3  under 5
in transition  ns    not available
";
        assert_eq!(section().text(), expected);
    }

    #[test]
    fn the_page_has_the_same_table_with_its_meaning() {
        let text = section().markdown();
        assert!(text.contains("\n## Calls\n\nOne call.\n\n| what | unit |"));
        assert!(text.contains("| patched | ns | 3.250 | 1.000 to 12.3 | under 5 |\n"));
        assert!(text.ends_with("| in transition | ns | not available |  |  |\n"));
    }
}
