//! Plots as inline SVG, and the page that holds them: one file without script, network or font of its own.
//!
//! Owns how figures look: axes, ticks, legends, colours in light and dark, tooltips. Knows nothing of what is drawn.
//! An own module, because plotters writes colours into each element: no dark mode, no `<title>`, and a path point for
//! every value, while a trace has millions.
//!
//! ```
//! use minisgl_loadgen::plot::{Axis, Figure, page};
//! let figure = Figure::new("ttft-cdf", "Time to first token", Axis::log("TTFT (ms)"), Axis::linear("share of requests"))
//!     .steps("at 1.0 x", &[(12.0, 0.25), (15.0, 0.5), (40.0, 1.0)])
//!     .vertical("SLO", 30.0)
//!     .note("3 requests");
//! assert!(page("Run", &figure.render()).contains(r#"<figure id="ttft-cdf" class="plot">"#));
//! ```
//! A figure's size is bounded whatever it is given: lines keep the extremes of each pixel column, points one a pixel.
//! Values that are not finite, or not above 0 on a logarithmic axis, are not drawn.
mod axis;
mod bins;
mod draw;
mod html;

pub use axis::{Axis, number};
pub use bins::{Bins, cdf, log_histogram, over_time};
pub use html::{escape, page, table};

/// One plot with its caption.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    id: String,
    caption: String,
    note: Option<String>,
    x: Axis,
    y: Axis,
    marks: Vec<Mark>,
}

/// What is drawn into a figure; colours follow the order in which names first come.
#[derive(Clone, Debug, PartialEq)]
enum Mark {
    /// Points joined by straight lines.
    Line { name: String, points: Vec<(f64, f64)> },
    /// A value that holds until the next point: a CDF, a count.
    Steps { name: String, points: Vec<(f64, f64)> },
    /// Points on their own.
    Scatter { name: String, points: Vec<(f64, f64)> },
    /// Bars over ranges of x, from 0.
    Bars { name: String, bars: Vec<Bar> },
    /// Rectangles whose shade is their value.
    Heat { unit: String, cells: Vec<Cell> },
    /// A line across, such as an SLO.
    Rule { name: String, at: f64, vertical: bool },
}

/// One bar of a histogram.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bar {
    /// Where its range begins.
    pub from: f64,
    /// Where it ends.
    pub to: f64,
    /// Its height.
    pub height: f64,
}

/// One cell of a heat map.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cell {
    /// Its range of x.
    pub x: (f64, f64),
    /// Its range of y.
    pub y: (f64, f64),
    /// Its value, at least 0; cells of 0 are left blank.
    pub value: f64,
}

impl Figure {
    /// An empty figure. `id` names it in the page (and in tests): letters, digits and hyphens.
    pub fn new(id: &str, caption: &str, x: Axis, y: Axis) -> Self {
        Self { id: id.to_owned(), caption: caption.to_owned(), note: None, x, y, marks: Vec::new() }
    }

    /// Says in small print what the reader must know: how many values, what was left out.
    pub fn note(mut self, note: &str) -> Self {
        self.note = Some(note.to_owned());
        self
    }

    /// Adds points joined by straight lines, in the order of x.
    pub fn line(mut self, name: &str, points: &[(f64, f64)]) -> Self {
        self.marks.push(Mark::Line { name: name.to_owned(), points: points.to_vec() });
        self
    }

    /// Adds values that hold until the next point, in the order of x: a CDF (see [`cdf`]), requests in flight.
    pub fn steps(mut self, name: &str, points: &[(f64, f64)]) -> Self {
        self.marks.push(Mark::Steps { name: name.to_owned(), points: points.to_vec() });
        self
    }

    /// Adds points on their own.
    pub fn scatter(mut self, name: &str, points: &[(f64, f64)]) -> Self {
        self.marks.push(Mark::Scatter { name: name.to_owned(), points: points.to_vec() });
        self
    }

    /// Adds bars, as [`log_histogram`] and [`over_time`] make them.
    pub fn bars(mut self, name: &str, bars: &[Bar]) -> Self {
        self.marks.push(Mark::Bars { name: name.to_owned(), bars: bars.to_vec() });
        self
    }

    /// Adds the cells of a heat map, whose values count `unit`.
    pub fn heat(mut self, unit: &str, cells: &[Cell]) -> Self {
        self.marks.push(Mark::Heat { unit: unit.to_owned(), cells: cells.to_vec() });
        self
    }

    /// Adds a line across at this x.
    pub fn vertical(mut self, name: &str, at: f64) -> Self {
        self.marks.push(Mark::Rule { name: name.to_owned(), at, vertical: true });
        self
    }

    /// Adds a line across at this y.
    pub fn horizontal(mut self, name: &str, at: f64) -> Self {
        self.marks.push(Mark::Rule { name: name.to_owned(), at, vertical: false });
        self
    }

    /// The `<figure>`; one that has nothing to draw says so.
    pub fn render(&self) -> String {
        draw::render(self)
    }
}

#[cfg(test)]
mod tests;
