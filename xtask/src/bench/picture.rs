//! The picture of pauses and delays by number of threads: medians with their ranges, and the goals,
//! on logarithmic axes.

use super::pause::{
    DELAY_LATER, DELAYS_TO_REACH, Deed, PAUSE_LATER, PAUSES_TO_REACH, Pauses, THREADS,
};
use super::statistics::Sample;
use super::svg::{Anchor, Mark, Svg};

const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 575.0;
/// The panels, from left to right and from top to bottom.
const PANELS: [(f64, f64); 2] = [(80.0, 500.0), (560.0, 980.0)];
const TOP: f64 = 100.0;
const BOTTOM: f64 = 440.0;

/// Powers of ten, in ms. Values outside are drawn on the edge.
const DECADES: std::ops::RangeInclusive<i32> = -2..=2;

const GRID: &str = "#dddddd";
const AXIS: &str = "#444444";
const REACH: &str = "#b3202a";

fn look(deed: Deed) -> (Mark, &'static str) {
    match deed {
        Deed::FirstApply => (Mark::Circle, "#1b5e9b"),
        Deed::SecondApply => (Mark::Square, "#d9822b"),
        Deed::Disable => (Mark::Diamond, "#3c8d5a"),
    }
}

/// Draws it; `machine` says where and when the figures are from.
pub(super) fn draw(pauses: &Pauses, machine: &str) -> String {
    let title = "engraft: what threads notice of a patch";
    let mut svg = Svg::new(WIDTH, HEIGHT, title);
    svg.text((80.0, 36.0), 20, Anchor::Start, title);
    svg.text((80.0, 58.0), 12, Anchor::Start, machine);
    let panels = [
        Panel {
            title: "Pause of a busy thread",
            samples: Deed::ALL.map(|deed| pauses.pauses(deed)),
            reach: PAUSES_TO_REACH,
            later: PAUSE_LATER,
        },
        Panel {
            title: "Delay of a thread with a 1 ms timer",
            samples: Deed::ALL.map(|deed| pauses.delays(deed)),
            reach: DELAYS_TO_REACH,
            later: DELAY_LATER,
        },
    ];
    for (panel, (left, right)) in panels.iter().zip(PANELS) {
        panel.draw(&mut svg, left, right);
    }
    let middle = f64::midpoint(TOP, BOTTOM);
    svg.text_upwards((26.0, middle), 13, "milliseconds (logarithmic)");
    legend(&mut svg);
    svg.finish()
}

struct Panel {
    title: &'static str,
    /// For each deed, by number of threads.
    samples: [Vec<Option<Sample>>; 3],
    reach: [f64; 4],
    later: f64,
}

impl Panel {
    fn draw(&self, svg: &mut Svg, left: f64, right: f64) {
        let middle = f64::midpoint(left, right);
        svg.text((middle, TOP - 14.0), 15, Anchor::Middle, self.title);
        for decade in DECADES {
            let value = 10_f64.powi(decade);
            svg.line((left, y(value)), (right, y(value)), GRID, 1.0, "");
            let label = format!("{value}");
            svg.text((left - 8.0, y(value) + 4.0), 12, Anchor::End, &label);
        }
        let later = y(self.later);
        svg.line((left, later), (right, later), REACH, 1.5, "6 4");
        for ((index, threads), reach) in THREADS.iter().enumerate().zip(self.reach) {
            let x = x(*threads, left, right);
            svg.line((x, TOP), (x, BOTTOM), GRID, 1.0, "");
            let label = threads.to_string();
            svg.text((x, BOTTOM + 20.0), 12, Anchor::Middle, &label);
            svg.line((x - 24.0, y(reach)), (x + 24.0, y(reach)), REACH, 3.0, "");
            for (place, (deed, samples)) in Deed::ALL.iter().zip(&self.samples).enumerate() {
                // Side by side, so that they do not hide each other.
                let x = x + [-15.0, 0.0, 15.0][place];
                if let Some(Some(sample)) = samples.get(index) {
                    with_whiskers(svg, x, sample, *deed);
                }
            }
        }
        svg.line((left, BOTTOM), (right, BOTTOM), AXIS, 1.0, "");
        svg.line((left, TOP), (left, BOTTOM), AXIS, 1.0, "");
        let label = "threads, besides the one with the timer (logarithmic)";
        svg.text((middle, BOTTOM + 42.0), 13, Anchor::Middle, label);
    }
}

fn with_whiskers(svg: &mut Svg, x: f64, sample: &Sample, deed: Deed) {
    let (mark, colour) = look(deed);
    let [least, median, most] = [sample.least(), sample.median(), sample.most()].map(y);
    svg.line((x, least), (x, most), colour, 1.5, "");
    for end in [least, most] {
        svg.line((x - 4.0, end), (x + 4.0, end), colour, 1.5, "");
    }
    svg.mark(mark, (x, median), colour);
}

fn legend(svg: &mut Svg) {
    let line = HEIGHT - 62.0;
    let text = line + 4.0;
    let mut x = 80.0;
    for deed in Deed::ALL {
        let (mark, colour) = look(deed);
        svg.mark(mark, (x + 6.0, line), colour);
        svg.text((x + 18.0, text), 12, Anchor::Start, deed.name());
        x += 130.0;
    }
    svg.line((x, line), (x + 40.0, line), REACH, 3.0, "");
    svg.text((x + 48.0, text), 12, Anchor::Start, "to reach first");
    x += 170.0;
    svg.line((x, line), (x + 40.0, line), REACH, 1.5, "6 4");
    svg.text((x + 48.0, text), 12, Anchor::Start, "to reach later");
    let notes = [
        "Marks are medians, whiskers the whole range; both are beyond what the same process shows with nothing happening.",
        "What is below 0.01 or above 100 ms is drawn on the edge.",
    ];
    for (note, up) in notes.into_iter().zip([30.0, 14.0]) {
        svg.text((80.0, HEIGHT - up), 11, Anchor::Start, note);
    }
}

/// Where a number of threads is, with room for marks at both ends.
fn x(threads: usize, left: f64, right: f64) -> f64 {
    let place = |threads: usize| (threads as f64).log10();
    let [first, .., last] = THREADS.map(place);
    let (left, right) = (left + 36.0, right - 36.0);
    left + (place(threads) - first) / (last - first) * (right - left)
}

/// Where a time in ms is; what lies outside is at the edge.
fn y(value: f64) -> f64 {
    let (low, high) = (f64::from(*DECADES.start()), f64::from(*DECADES.end()));
    let place = value.max(f64::MIN_POSITIVE).log10().clamp(low, high);
    BOTTOM - (place - low) / (high - low) * (BOTTOM - TOP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_logarithmic() {
        assert_eq!(y(0.01), BOTTOM);
        assert_eq!(y(100.0), TOP);
        let decade = y(1.0) - y(10.0);
        assert!((y(0.1) - y(1.0) - decade).abs() < 1e-9);
        let [one, ten, hundred] = [1, 10, 100].map(|threads| x(threads, 0.0, 100.0));
        assert!((ten - one - (hundred - ten)).abs() < 1e-9);
        assert_eq!(x(500, 0.0, 100.0), 64.0);
    }

    #[test]
    fn nothing_and_too_much_are_at_the_edges() {
        assert_eq!([y(0.0), y(-1.0)], [BOTTOM; 2]);
        assert_eq!(y(1e9), TOP);
    }
}
