//! A download on stderr: a bar on a terminal, a few lines elsewhere (a log), nothing where it was not asked for.
use std::io::IsTerminal;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

/// Below this a download is over before a line about it is read.
const LEAST_FOR_LINES: u64 = 1 << 20;
const PERCENT_A_LINE: u64 = 20;

/// How downloads are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Silent,
    Bar,
    Lines,
}

/// One download.
pub(super) struct Progress {
    style: Style,
    label: String,
    bar: ProgressBar,
    total: u64,
    done: u64,
    next_percent: u64,
}

impl Progress {
    /// `shown` false: silent.
    pub(super) fn new(shown: bool, label: &str, total: u64) -> Self {
        let style = match (shown, std::io::stderr().is_terminal()) {
            (false, _) => Style::Silent,
            (true, true) => Style::Bar,
            (true, false) => Style::Lines,
        };
        let bar = if style == Style::Bar { ProgressBar::new(total) } else { ProgressBar::hidden() };
        let template = "{msg} {bar:24} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        bar.set_style(ProgressStyle::with_template(template).expect("a valid template"));
        bar.set_message(label.to_string());
        let mut progress = Self { style, label: label.into(), bar, total: 0, done: 0, next_percent: PERCENT_A_LINE };
        progress.set_total(total);
        progress
    }

    fn set_total(&mut self, total: u64) {
        if total != self.total {
            self.total = total;
            self.bar.set_length(total);
            self.line(|p| format!("fetching {} ({})", p.label, HumanBytes(p.total)));
        }
    }

    fn line(&self, text: impl FnOnce(&Self) -> String) {
        if self.style == Style::Lines && self.total >= LEAST_FOR_LINES {
            eprintln!("{}", text(self));
        }
    }

    /// Bytes so far, in all.
    pub(super) fn set(&mut self, done: u64) {
        self.done = done.min(self.total);
        self.bar.set_position(self.done);
        let percent = (self.done * 100).checked_div(self.total).unwrap_or(100);
        if percent >= self.next_percent && percent < 100 {
            self.line(|p| format!("fetching {}: {percent}%", p.label));
            self.next_percent = percent / PERCENT_A_LINE * PERCENT_A_LINE + PERCENT_A_LINE;
        }
    }

    /// Bytes more.
    pub(super) fn add(&mut self, bytes: u64) {
        self.set(self.done + bytes);
    }

    /// It is whole.
    pub(super) fn finish(&mut self) {
        self.bar.set_position(self.total);
        self.bar.finish();
        self.line(|p| format!("fetched {}", p.label));
    }
}

impl hf_hub::api::Progress for Progress {
    fn init(&mut self, size: usize, _filename: &str) {
        self.set_total(size as u64);
        self.set(0);
    }

    fn update(&mut self, size: usize) {
        self.add(size as u64);
    }

    fn finish(&mut self) {
        Progress::finish(self);
    }
}
