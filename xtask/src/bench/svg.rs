//! Just enough of SVG for a chart: lines, marks and text, written as text.

use std::fmt::Write as _;

/// Where a text stands in relation to its point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// What a point is marked with; shapes tell series apart where colours do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    Circle,
    Square,
    Diamond,
}

/// A picture that is being drawn. Coordinates are pixels from the upper left corner.
#[derive(Debug)]
pub(super) struct Svg {
    body: String,
    width: f64,
    height: f64,
}

impl Svg {
    /// An empty picture with a white background; screen readers read the `title`.
    pub(super) fn new(width: f64, height: f64, title: &str) -> Self {
        let mut svg = Self {
            body: String::new(),
            width,
            height,
        };
        svg.put(format_args!("<title>{}</title>", escape(title)));
        svg.put(format_args!(
            r##"<rect width="{width}" height="{height}" fill="#ffffff"/>"##
        ));
        svg
    }

    /// A straight line; `dashes` as in `stroke-dasharray`, or nothing.
    pub(super) fn line(
        &mut self,
        from: (f64, f64),
        to: (f64, f64),
        colour: &str,
        width: f64,
        dashes: &str,
    ) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let dashes = match dashes {
            "" => String::new(),
            dashes => format!(r#" stroke-dasharray="{dashes}""#),
        };
        self.put(format_args!(
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{colour}" stroke-width="{width}"{dashes}/>"#
        ));
    }

    pub(super) fn mark(&mut self, mark: Mark, (x, y): (f64, f64), colour: &str) {
        let (low_x, low_y) = (x - 4.5, y - 4.5);
        match mark {
            Mark::Circle => self.put(format_args!(
                r#"<circle cx="{x:.1}" cy="{y:.1}" r="5" fill="{colour}"/>"#
            )),
            Mark::Square => self.put(format_args!(
                r#"<rect x="{low_x:.1}" y="{low_y:.1}" width="9" height="9" fill="{colour}"/>"#
            )),
            Mark::Diamond => self.put(format_args!(
                r#"<path d="M {x:.1} {:.1} l 6 6 l -6 6 l -6 -6 z" fill="{colour}"/>"#,
                y - 6.0
            )),
        }
    }

    pub(super) fn text(&mut self, (x, y): (f64, f64), size: u32, anchor: Anchor, text: &str) {
        self.put_text(format_args!(r#"x="{x:.1}" y="{y:.1}""#), size, anchor, text);
    }

    /// Text that is read from below, centred at the point.
    pub(super) fn text_upwards(&mut self, (x, y): (f64, f64), size: u32, text: &str) {
        let place = format_args!(r#"transform="translate({x:.1} {y:.1}) rotate(-90)""#);
        self.put_text(place, size, Anchor::Middle, text);
    }

    fn put_text(&mut self, place: std::fmt::Arguments<'_>, size: u32, anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escape(text);
        self.put(format_args!(
            r##"<text {place} font-size="{size}" text-anchor="{anchor}" fill="#222222">{text}</text>"##
        ));
    }

    fn put(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.body, "  {element}");
    }

    /// The file's text.
    pub(super) fn finish(self) -> String {
        let Self {
            body,
            width,
            height,
        } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             width=\"{width}\" height=\"{height}\" \
             font-family=\"DejaVu Sans, Helvetica, Arial, sans-serif\">\n{body}</svg>\n"
        )
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_break_out_of_its_element() {
        let mut svg = Svg::new(10.0, 10.0, "a<b");
        svg.text((1.0, 2.0), 12, Anchor::End, "1 & </text>");
        let text = svg.finish();
        assert!(text.contains("<title>a&lt;b</title>"));
        assert!(text.contains(r#"text-anchor="end""#));
        assert!(text.contains(">1 &amp; &lt;/text&gt;</text>"));
        assert!(text.ends_with("</svg>\n"));
    }

    #[test]
    fn only_dashed_lines_have_dashes() {
        let mut svg = Svg::new(10.0, 10.0, "");
        svg.line((0.0, 0.0), (1.0, 1.0), "#000000", 1.0, "");
        assert!(!svg.body.contains("dasharray"));
        svg.line((0.0, 0.0), (1.0, 1.0), "#000000", 1.0, "4 2");
        assert!(svg.body.contains(r#"stroke-dasharray="4 2""#));
    }
}
