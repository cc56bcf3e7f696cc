//! A figure as SVG.
//!
//! Owns pixels: margins, paths, how much detail is kept. Knows nothing of colours, which are the page's.
use std::fmt::Write;

use super::axis::{Fitted, number};
use super::html::escape;
use super::{Bar, Cell, Figure, Mark};

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 300.0;
/// Around the drawing, for ticks and labels.
const LEFT: f64 = 62.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 46.0;
/// Places along a line that show their values.
const SPOTS: usize = 60;
/// The page has so many colours; more names share them.
const COLOURS: usize = 8;

/// The figure as HTML.
pub(super) fn render(figure: &Figure) -> String {
    let id = escape(&figure.id);
    let mut html = format!("<figure id=\"{id}\" class=\"plot\"><figcaption>{}", escape(&figure.caption));
    if let Some(note) = &figure.note {
        let _ = write!(html, "<p class=\"note\">{}</p>", escape(note));
    }
    html.push_str("</figcaption>\n");
    let canvas = Canvas::of(figure);
    if canvas.is_empty() {
        return html + "<p class=\"empty\">nothing to draw</p></figure>\n";
    }
    canvas.legend(&mut html);
    let label = escape(&format!("{}: {} over {}", figure.caption, figure.y.label, figure.x.label));
    let _ = writeln!(html, "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{label}\">");
    canvas.frame(&mut html);
    for mark in &figure.marks {
        canvas.mark(&mut html, mark);
    }
    html + "</svg></figure>\n"
}

/// A figure whose axes are fitted to its marks.
struct Canvas<'a> {
    figure: &'a Figure,
    x: Fitted,
    y: Fitted,
    /// Names in the order of their colours.
    names: Vec<&'a str>,
}

impl<'a> Canvas<'a> {
    fn of(figure: &'a Figure) -> Self {
        let drawn: Vec<(f64, f64)> = figure.marks.iter().flat_map(|mark| extent(figure, mark)).collect();
        let rules = |wanted: bool| {
            figure.marks.iter().filter_map(move |mark| match mark {
                Mark::Rule { at, vertical, .. } if *vertical == wanted => Some(*at),
                _ => None,
            })
        };
        let x = figure.x.fitted(drawn.iter().map(|p| p.0).chain(rules(true)), LEFT, WIDTH - LEFT - RIGHT);
        let y = figure.y.fitted(drawn.iter().map(|p| p.1).chain(rules(false)), HEIGHT - BOTTOM, TOP + BOTTOM - HEIGHT);
        let mut names: Vec<&str> = Vec::new();
        for name in figure.marks.iter().filter_map(Mark::name) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Self { figure, x, y, names }
    }

    fn is_empty(&self) -> bool {
        self.figure.marks.iter().all(|mark| extent(self.figure, mark).is_empty())
    }

    fn colour(&self, name: &str) -> usize {
        self.names.iter().position(|&n| n == name).unwrap_or(0) % COLOURS
    }

    fn legend(&self, html: &mut String) {
        if self.names.len() < 2 {
            return;
        }
        html.push_str("<ul class=\"legend\">");
        for name in &self.names {
            let _ = write!(html, "<li class=\"c{}\"><i></i>{}</li>", self.colour(name), escape(name));
        }
        html.push_str("</ul>\n");
    }

    /// Grid, ticks and labels.
    fn frame(&self, html: &mut String) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for &tick in &self.y.ticks {
            let (y, text) = (self.y.place(tick), number(tick));
            let _ = write!(html, "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{right}\"/>");
            let _ = writeln!(html, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>", LEFT - 6.0, y + 4.0);
        }
        for &tick in &self.x.ticks {
            let (x, text) = (self.x.place(tick), number(tick));
            let _ = write!(html, "<path class=\"grid\" d=\"M{x:.1} {TOP}V{bottom}\"/>");
            let _ = writeln!(html, "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{text}</text>", bottom + 16.0);
        }
        let _ = writeln!(html, "<path class=\"edge\" fill=\"none\" d=\"M{LEFT} {TOP}V{bottom}H{right}\"/>");
        let (middle, labels) = ((LEFT + right) / 2.0, [escape(&self.figure.x.label), escape(&self.figure.y.label)]);
        let at = HEIGHT - 8.0;
        let _ = writeln!(
            html,
            "<text class=\"label\" x=\"{middle}\" y=\"{at}\" text-anchor=\"middle\">{}</text>",
            labels[0]
        );
        let (x, y) = (14.0, (TOP + bottom) / 2.0);
        let _ = writeln!(
            html,
            "<text class=\"label\" x=\"{x}\" y=\"{y}\" text-anchor=\"middle\" transform=\"rotate(-90 {x} {y})\">{}</text>",
            labels[1]
        );
    }

    fn mark(&self, html: &mut String, mark: &Mark) {
        match mark {
            Mark::Line { name, points } => self.line(html, name, points, false),
            Mark::Steps { name, points } => self.line(html, name, points, true),
            Mark::Scatter { name, points } => self.scatter(html, name, points),
            Mark::Bars { name, bars } => self.bars(html, name, bars),
            Mark::Heat { unit, cells } => self.heat(html, unit, cells),
            Mark::Rule { name, at, vertical } => self.rule(html, name, *at, *vertical),
        }
    }

    fn line(&self, html: &mut String, name: &str, points: &[(f64, f64)], steps: bool) {
        let points: Vec<(f64, f64)> = points.iter().copied().filter(|&point| self.takes(point)).collect();
        let kept = thinned(points.iter().map(|&(x, y)| (self.x.place(x), self.y.place(y))));
        let mut path = String::new();
        for (index, (x, y)) in kept.iter().enumerate() {
            let _ = match index {
                0 => write!(path, "M{x:.1} {y:.1}"),
                _ if steps => write!(path, "H{x:.1}V{y:.1}"),
                _ => write!(path, "L{x:.1} {y:.1}"),
            };
        }
        let colour = self.colour(name);
        let _ = writeln!(html, "<path class=\"line c{colour}\" d=\"{path}\"/>");
        for &(x, y) in points.iter().step_by(points.len().div_ceil(SPOTS).max(1)) {
            let title = self.title(name, x, y);
            let (x, y) = (self.x.place(x), self.y.place(y));
            let _ =
                writeln!(html, "<circle class=\"spot c{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\">{title}</circle>");
        }
    }

    fn scatter(&self, html: &mut String, name: &str, points: &[(f64, f64)]) {
        let mut taken = std::collections::HashSet::new();
        let colour = self.colour(name);
        for &(x, y) in
            points.iter().filter(|&&point| self.takes(point) && self.x.holds(point.0) && self.y.holds(point.1))
        {
            let title = self.title(name, x, y);
            let (x, y) = (self.x.place(x), self.y.place(y));
            // One point for two pixels by two: at most about 40,000, and in truth far fewer.
            if taken.insert(((x / 2.0) as i32, (y / 2.0) as i32)) {
                let _ = writeln!(
                    html,
                    "<circle class=\"dot c{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.2\">{title}</circle>"
                );
            }
        }
    }

    fn bars(&self, html: &mut String, name: &str, bars: &[Bar]) {
        let (colour, floor) = (self.colour(name), HEIGHT - BOTTOM);
        for bar in bars.iter().filter(|bar| bar.height > 0.0 && self.takes((bar.to, bar.height))) {
            let (left, right, top) = (self.x.place(bar.from), self.x.place(bar.to), self.y.place(bar.height));
            let (gap, height) = (if right - left > 3.0 { 1.0 } else { 0.0 }, (floor - top).max(0.5));
            let width = (right - left - gap).max(0.3);
            let (from, to, value) = (number(bar.from), number(bar.to), number(bar.height));
            let title = escape(&format!("{from} – {to}: {value} {}", self.figure.y.label));
            let _ = writeln!(
                html,
                "<rect class=\"bar c{colour}\" x=\"{left:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{height:.1}\">\
                 <title>{title}</title></rect>",
                floor - height
            );
        }
    }

    fn heat(&self, html: &mut String, unit: &str, cells: &[Cell]) {
        let most = cells.iter().map(|cell| cell.value).filter(|value| value.is_finite()).fold(0.0, f64::max);
        for cell in cells.iter().filter(|cell| cell.value > 0.0 && cell.value.is_finite()) {
            let (left, right) = (self.x.place(cell.x.0), self.x.place(cell.x.1));
            let (bottom, top) = (self.y.place(cell.y.0), self.y.place(cell.y.1));
            // The square root shows single values beside crowds.
            let shade = 0.08 + 0.92 * (cell.value / most).sqrt();
            let [x0, x1, y0, y1, value] = [cell.x.0, cell.x.1, cell.y.0, cell.y.1, cell.value].map(number);
            let title = escape(&format!("{x0} – {x1}, {y0} – {y1}: {value} {unit}"));
            let (width, height) = ((right - left).max(0.3), (bottom - top).max(0.3));
            let _ = writeln!(
                html,
                "<rect class=\"cell\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" \
                 fill-opacity=\"{shade:.3}\"><title>{title}</title></rect>"
            );
        }
    }

    fn rule(&self, html: &mut String, name: &str, at: f64, vertical: bool) {
        let axis = if vertical { &self.x } else { &self.y };
        if !(if vertical { &self.figure.x } else { &self.figure.y }).takes(at) || !axis.holds(at) {
            return;
        }
        let place = axis.place(at);
        let path = match vertical {
            true => format!("M{place:.1} {TOP}V{}", HEIGHT - BOTTOM),
            false => format!("M{LEFT} {place:.1}H{}", WIDTH - RIGHT),
        };
        let title = escape(&format!("{name}: {}", number(at)));
        let _ =
            writeln!(html, "<path class=\"rule c{}\" d=\"{path}\"><title>{title}</title></path>", self.colour(name));
    }

    fn takes(&self, (x, y): (f64, f64)) -> bool {
        self.figure.x.takes(x) && self.figure.y.takes(y)
    }

    fn title(&self, name: &str, x: f64, y: f64) -> String {
        let Figure { x: across, y: up, .. } = self.figure;
        let text = format!("{name}\n{}: {}\n{}: {}", across.label, number(x), up.label, number(y));
        format!("<title>{}</title>", escape(&text))
    }
}

impl Mark {
    fn name(&self) -> Option<&str> {
        match self {
            Self::Line { name, .. }
            | Self::Steps { name, .. }
            | Self::Scatter { name, .. }
            | Self::Bars { name, .. }
            | Self::Rule { name, .. } => Some(name),
            Self::Heat { .. } => None,
        }
    }
}

/// The points that a mark's axes must hold: none if it has nothing to draw. A rule is drawn over what else there is.
fn extent(figure: &Figure, mark: &Mark) -> Vec<(f64, f64)> {
    let takes = |&(x, y): &(f64, f64)| figure.x.takes(x) && figure.y.takes(y);
    let points: Vec<(f64, f64)> = match mark {
        Mark::Line { points, .. } | Mark::Steps { points, .. } | Mark::Scatter { points, .. } => points.clone(),
        Mark::Bars { bars, .. } => {
            let floor = if figure.y.log { None } else { Some(0.0) };
            let corners = |bar: &Bar| [(bar.from, floor.unwrap_or(bar.height)), (bar.to, bar.height)];
            bars.iter().filter(|bar| bar.height > 0.0).flat_map(corners).collect()
        }
        Mark::Heat { cells, .. } => {
            let corners = |cell: &Cell| [(cell.x.0, cell.y.0), (cell.x.1, cell.y.1)];
            cells.iter().filter(|cell| cell.value > 0.0).flat_map(corners).collect()
        }
        Mark::Rule { .. } => Vec::new(),
    };
    points.into_iter().filter(takes).collect()
}

/// The first, last, lowest and highest point of each pixel column, in their order: the same picture with a bounded path.
fn thinned(points: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    let mut kept = Vec::new();
    let mut column: Vec<(usize, (f64, f64))> = Vec::new();
    let flush = |column: &mut Vec<(usize, (f64, f64))>, kept: &mut Vec<(f64, f64)>| {
        column.sort_by_key(|&(index, _)| index);
        column.dedup_by_key(|(index, _)| *index);
        kept.extend(column.drain(..).map(|(_, point)| point));
    };
    for (index, point) in points.enumerate() {
        if column.first().is_some_and(|first| first.1.0.floor() != point.0.floor()) {
            flush(&mut column, &mut kept);
        }
        if column.is_empty() {
            column = vec![(index, point); 4];
            continue;
        }
        // first, last, lowest, highest
        column[1] = (index, point);
        if point.1 < column[2].1.1 {
            column[2] = (index, point);
        }
        if point.1 > column[3].1.1 {
            column[3] = (index, point);
        }
    }
    flush(&mut column, &mut kept);
    kept
}
