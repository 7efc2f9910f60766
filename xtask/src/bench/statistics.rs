//! Median and range: all that a handful of runs can honestly say.

/// Some figures of one kind, in order.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample(Vec<f64>);

impl Sample {
    /// `None` if there is no figure.
    pub(super) fn new(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut figures: Vec<_> = figures.into_iter().collect();
        figures.sort_unstable_by(f64::total_cmp);
        (!figures.is_empty()).then_some(Self(figures))
    }

    /// The middle one; of two in the middle, the upper one.
    pub(super) fn median(&self) -> f64 {
        self.0.get(self.0.len() / 2).copied().unwrap_or_default()
    }

    pub(super) fn least(&self) -> f64 {
        self.0.first().copied().unwrap_or_default()
    }

    pub(super) fn most(&self) -> f64 {
        self.0.last().copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_range_of_a_few() {
        let sample = Sample::new([3.0, -1.0, 200.0]).unwrap();
        assert_eq!(
            [sample.median(), sample.least(), sample.most()],
            [3.0, -1.0, 200.0]
        );
        assert_eq!(Sample::new([1.0, 2.0]).unwrap().median(), 2.0);
    }

    #[test]
    fn nothing_measured_is_no_sample() {
        assert_eq!(Sample::new([]), None);
    }
}
