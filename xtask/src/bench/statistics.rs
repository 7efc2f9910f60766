//! Median and range: all that a handful of runs can honestly say.

use std::time::Duration;

/// Some durations, in order.
#[derive(Debug)]
pub(super) struct Sample(Vec<Duration>);

impl Sample {
    pub(super) fn new(durations: impl IntoIterator<Item = Duration>) -> Self {
        let mut durations: Vec<_> = durations.into_iter().collect();
        durations.sort_unstable();
        Self(durations)
    }
}

impl std::fmt::Display for Sample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Some(least), Some(most)) = (self.0.first(), self.0.last()) else {
            return f.pad("nothing measured");
        };
        // The upper one of the two in the middle.
        let median = self.0.get(self.0.len() / 2).unwrap_or(most);
        let [median, least, most] = [median, least, most].map(|d| d.as_secs_f64() * 1000.0);
        f.pad(&format!("{median:.3} ({least:.3} to {most:.3})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_range_are_shown_in_milliseconds() {
        let sample = Sample::new([3, 1, 200].map(Duration::from_micros));
        assert_eq!(sample.to_string(), "0.003 (0.001 to 0.200)");
        assert_eq!(Sample::new([]).to_string(), "nothing measured");
    }
}
