//! Just enough SVG for charts.

use std::fmt::Write as _;

/// A drawing in the making.
pub struct Svg {
    width: f64,
    height: f64,
    body: String,
}

/// Where a text is fixed.
#[derive(Clone, Copy)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

impl Anchor {
    fn name(self) -> &'static str {
        match self {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        }
    }
}

pub const INK: &str = "#24292f";
pub const FAINT: &str = "#d0d7de";
pub const OURS: &str = "#b7410e";
pub const VENDOR: &str = "#76b900";
pub const TORCH: &str = "#4c6ef5";

impl Svg {
    pub fn new(width: f64, height: f64) -> Self {
        Svg { width, height, body: String::new() }
    }

    pub fn rect(&mut self, x: f64, y: f64, width: f64, height: f64, fill: &str) {
        self.add(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{height:.1}\" fill=\"{fill}\"/>",
            width.max(0.0)
        ));
    }

    pub fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), stroke: &str) {
        self.add(format_args!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{stroke}\"/>"
        ));
    }

    /// A dot whose name shows up under the pointer.
    pub fn dot(&mut self, (x, y): (f64, f64), fill: &str, title: &str) {
        let title = escaped(title);
        self.add(format_args!(
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{fill}\" fill-opacity=\"0.75\"><title>{title}</title></circle>"
        ));
    }

    pub fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, text: &str) {
        let (anchor, text) = (anchor.name(), escaped(text));
        self.add(format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"));
    }

    fn add(&mut self, element: std::fmt::Arguments<'_>) {
        writeln!(self.body, "{element}").expect("writing to a String cannot fail");
    }

    /// The whole file. It brings its own background, so that it can be read on a dark page too.
    pub fn finish(self) -> String {
        let Svg { width, height, body } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
             height=\"{height:.0}\" font-family=\"sans-serif\" font-size=\"11\" fill=\"{INK}\">\n\
             <rect x=\"0\" y=\"0\" width=\"{width:.0}\" height=\"{height:.0}\" fill=\"#ffffff\"/>\n{body}</svg>\n"
        )
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Checks that every tag is closed in order, attributes are quoted, and no bare `&` or `<` is left: enough XML for what
    /// [`Svg`] can write. Gives the number of elements.
    pub fn assert_well_formed(svg: &str) -> usize {
        let (mut open, mut n_elements, mut rest) = (Vec::new(), 0, svg);
        while let Some(start) = rest.find('<') {
            assert_text(&rest[..start]);
            let end =
                rest[start..].find('>').unwrap_or_else(|| panic!("a tag without end: {rest:.80}")) + start;
            let tag = &rest[start + 1..end];
            rest = &rest[end + 1..];
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name.to_string()), "closed in another order");
                continue;
            }
            n_elements += 1;
            let (tag, is_closed) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
            let name = tag.split_whitespace().next().expect("a tag has a name").to_string();
            assert!(tag.matches('"').count().is_multiple_of(2), "{tag}");
            assert!(!tag.contains("NaN") && !tag.contains("inf"), "{tag}");
            assert_text(tag);
            if !is_closed {
                open.push(name);
            }
        }
        assert!(open.is_empty() && rest.trim().is_empty(), "left open: {open:?}, behind the end: {rest:?}");
        n_elements
    }

    fn assert_text(text: &str) {
        for (at, _) in text.match_indices('&') {
            let is_entity = ["&amp;", "&lt;", "&gt;", "&quot;"].iter().any(|e| text[at..].starts_with(e));
            assert!(is_entity, "a bare & in {text:?}");
        }
    }

    #[test]
    fn every_element_is_well_formed() {
        let mut svg = Svg::new(100.0, 50.0);
        svg.rect(1.0, 2.0, -3.0, 4.0, OURS);
        svg.line((0.0, 0.0), (1.0, 1.0), FAINT);
        svg.dot((5.0, 5.0), TORCH, "a < b & \"c\"");
        svg.text((1.0, 1.0), Anchor::End, "<µs>");
        let svg = svg.finish();
        assert_eq!(assert_well_formed(&svg), 7);
        assert!(svg.contains("a &lt; b &amp; &quot;c&quot;") && svg.contains("width=\"0.0\""), "{svg}");
    }

    #[test]
    #[should_panic(expected = "closed in another order")]
    fn the_check_sees_a_missing_end() {
        assert_well_formed("<svg><text>a</svg>");
    }

    #[test]
    #[should_panic(expected = "a bare &")]
    fn the_check_sees_a_bare_ampersand() {
        assert_well_formed("<svg>a & b</svg>");
    }
}
