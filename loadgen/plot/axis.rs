//! An axis: its range, its ticks, and a value's place on it.
//!
//! Owns round numbers and how they are written. Knows nothing of pixels beyond the length that it is given.

/// One axis of a figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    pub(super) label: String,
    pub(super) log: bool,
    pub(super) from: Option<f64>,
    pub(super) to: Option<f64>,
}

impl Axis {
    /// A linear axis; the label ends with the unit: `TTFT (ms)`. It begins at 0 unless there are values below, or all lie
    /// far above.
    pub fn linear(label: &str) -> Self {
        Self { label: label.to_owned(), log: false, from: None, to: None }
    }

    /// A logarithmic axis: values of 0 and below have no place on it.
    pub fn log(label: &str) -> Self {
        Self { log: true, ..Self::linear(label) }
    }

    /// Begins at `from` whatever the values.
    pub fn from(mut self, from: f64) -> Self {
        self.from = Some(from);
        self
    }

    /// Ends at `to` whatever the values.
    pub fn to(mut self, to: f64) -> Self {
        self.to = Some(to);
        self
    }

    /// Whether a value has a place.
    pub(super) fn takes(&self, value: f64) -> bool {
        value.is_finite() && (!self.log || value > 0.0)
    }

    /// The axis over these values, drawn over `length` pixels from `start`; a negative length is drawn upwards.
    pub(super) fn fitted(&self, values: impl Iterator<Item = f64>, start: f64, length: f64) -> Fitted {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|&value| self.takes(value)) {
            (low, high) = (low.min(value), high.max(value));
        }
        if low > high {
            (low, high) = if self.log { (1.0, 10.0) } else { (0.0, 1.0) };
        }
        // A range so large that its width is no number, or so high that a step is lost in it, has no ticks.
        (low, high) = (low.clamp(-1e300, 1e300), high.clamp(-1e300, 1e300));
        if !self.log && low > 0.0 && low < 0.6 * high {
            low = 0.0;
        }
        low = self.from.filter(|&from| self.takes(from)).unwrap_or(low);
        high = self.to.filter(|&to| self.takes(to)).unwrap_or(high);
        if self.log {
            (low, high) = (low.max(1e-300), high.max(1e-300));
        }
        if high <= low || (high - low) / high.abs().max(low.abs()) < 1e-9 {
            let room = if low == 0.0 { 1.0 } else { low.abs() * 0.5 };
            (low, high) = if self.log { (low / 2.0, low * 2.0) } else { (low - room.min(low.abs()), low + room) };
        }
        let ticks = if self.log { log_ticks(low, high) } else { linear_ticks(low, high) };
        Fitted { log: self.log, low, high, start, length, ticks }
    }
}

/// An axis with its range.
pub(super) struct Fitted {
    log: bool,
    low: f64,
    high: f64,
    start: f64,
    length: f64,
    /// Where its ticks are.
    pub(super) ticks: Vec<f64>,
}

impl Fitted {
    /// Where a value is drawn, in pixels; one beyond the range at its edge.
    pub(super) fn place(&self, value: f64) -> f64 {
        let share = match self.log {
            true => (value.max(1e-300).ln() - self.low.ln()) / (self.high.ln() - self.low.ln()),
            false => (value - self.low) / (self.high - self.low),
        };
        self.start + share.clamp(0.0, 1.0) * self.length
    }

    /// Whether a value is within the range.
    pub(super) fn holds(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }
}

/// About six round numbers.
fn linear_ticks(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / 6.0;
    let magnitude = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * magnitude).into_iter().find(|&step| step >= rough);
    let Some(step) = step.filter(|step| step.is_finite() && *step > 0.0) else { return Vec::new() };
    let first = (low / step - 1e-9).ceil();
    (0..20).map(|i| (first + f64::from(i)) * step).take_while(|&tick| tick <= high + step * 1e-9).collect()
}

/// Powers of ten, with 2 and 5 between where they are few.
fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let decades = last - first;
    let between: &[f64] = if decades <= 3 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let every = (decades / 8).max(1) as usize;
    let ticks =
        (first..=last).step_by(every).flat_map(|exponent| between.iter().map(move |m| m * 10f64.powi(exponent)));
    let ticks: Vec<f64> = ticks.filter(|&tick| tick >= low * (1.0 - 1e-9) && tick <= high * (1.0 + 1e-9)).collect();
    if ticks.len() < 2 { linear_ticks(low, high) } else { ticks }
}

/// A number as a reader takes it in: three digits that count, `k`, `M`, `G` above.
pub fn number(value: f64) -> String {
    let size = value.abs();
    let (scaled, suffix) = match size {
        _ if !value.is_finite() => return "–".to_owned(),
        _ if size >= 1e15 || (size > 0.0 && size < 1e-4) => return format!("{value:.2e}"),
        _ if size >= 999.5e6 => (value / 1e9, "G"),
        _ if size >= 999.5e3 => (value / 1e6, "M"),
        _ if size >= 9999.5 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = match scaled.abs() {
        s if s >= 99.95 => 0,
        s if s >= 9.995 => 1,
        s if s >= 0.9995 || s == 0.0 => 2,
        s if s >= 0.0995 => 3,
        _ => 5,
    };
    let text = format!("{scaled:.digits$}");
    let trimmed = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{}{suffix}", if trimmed == "-0" { "0" } else { trimmed })
}
