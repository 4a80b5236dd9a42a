//! Curves as SVG.

use std::fmt::Write as _;
use std::path::Path;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
const MARGIN: f64 = 70.0;
const COLORS: [&str; 3] = ["#1f6feb", "#d1242f", "#1a7f37"];

/// One curve.
pub(crate) struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

impl Line {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), points: Vec::new() }
    }

    pub(crate) fn add(&mut self, x: f64, y: f64) {
        self.points.push((x, y));
    }
}

/// Curves over one axis. Both axes begin at zero.
pub(crate) struct Plot {
    pub(crate) title: &'static str,
    pub(crate) x: &'static str,
    pub(crate) lines: Vec<Line>,
}

impl Plot {
    pub(crate) fn save(&self, file: &Path) -> anyhow::Result<()> {
        if let Some(dir) = file.parent() {
            std::fs::create_dir_all(dir)?;
        }
        std::fs::write(file, self.svg()?)?;
        Ok(())
    }

    fn svg(&self) -> Result<String, std::fmt::Error> {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let widest = points().map(|(x, _)| *x).fold(1.0, f64::max);
        let highest = points().map(|(_, y)| *y).fold(0.001, f64::max);
        let at =
            |(x, y): &(f64, f64)| (MARGIN + x / widest * (WIDTH - 2.0 * MARGIN), HEIGHT - MARGIN - y / highest * (HEIGHT - 2.0 * MARGIN));
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n"
        );
        writeln!(
            svg,
            "<rect width=\"100%\" height=\"100%\" fill=\"white\"/><text x=\"{MARGIN}\" y=\"30\" font-size=\"16\">{}</text>",
            self.title
        )?;
        for (x, y) in [(0.0, highest), (widest, 0.0)] {
            let ((left, bottom), (right, top)) = (at(&(0.0, 0.0)), at(&(x, y)));
            writeln!(svg, "<path d=\"M{left:.1} {bottom:.1}L{right:.1} {top:.1}\" stroke=\"black\"/>")?;
        }
        for (line, color) in self.lines.iter().zip(COLORS) {
            let corners: Vec<String> = line.points.iter().map(at).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            writeln!(svg, "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>", corners.join(" "))?;
            for point in &line.points {
                let (x, y) = at(point);
                writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{color}\"/>")?;
                writeln!(svg, "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{:.2}</text>", y - 8.0, point.1)?;
                writeln!(svg, "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>", HEIGHT - MARGIN + 16.0, point.0)?;
            }
        }
        let names: Vec<&str> = self.lines.iter().map(|line| line.name.as_str()).collect();
        writeln!(svg, "<text x=\"{MARGIN}\" y=\"{:.1}\">{}; x: {}</text>\n</svg>", HEIGHT - 20.0, names.join(", "), self.x)?;
        Ok(svg)
    }
}
