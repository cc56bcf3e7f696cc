//! An inspection as text.
use std::fmt;

use super::{Counts, Inspection, Spread};

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for [what, value] in rows(self) {
            writeln!(f, "{what:<20} {value}")?;
        }
        let spreads = spreads(self);
        if !spreads.is_empty() {
            writeln!(f, "\n{:<20} {}", "", HEADING.map(|column| format!("{column:>12}")).join(""))?;
            for (what, spread) in spreads {
                writeln!(f, "{what:<20} {}", cells(&spread).map(|cell| format!("{cell:>12}")).join(""))?;
            }
        }
        Ok(())
    }
}

/// Columns of the table of lengths.
pub(super) const HEADING: [&str; 7] = ["n", "mean", "p50", "p90", "p99", "max", "total"];

/// The cells of one of its rows.
pub(super) fn cells(spread: &Spread) -> [String; 7] {
    let Spread { n, total, mean, p50, p90, p99, max, .. } = spread;
    // Below so many values the largest stands for the 99th percentile.
    let p99 = if *n < 100 { "–".to_owned() } else { p99.to_string() };
    [n.to_string(), format!("{mean:.1}"), p50.to_string(), p90.to_string(), p99, max.to_string(), total.to_string()]
}

/// The rows of that table.
pub(super) fn spreads(of: &Inspection) -> Vec<(&'static str, Spread)> {
    let rows = [
        ("input tokens", of.input_tokens),
        ("output tokens", of.output_tokens),
        ("prompt characters", of.prompt_chars),
        ("turns a chat", of.turns.map(|turns| turns.turns_a_chat)),
    ];
    rows.into_iter().filter_map(|(name, spread)| Some((name, spread?))).collect()
}

/// The rest, a line each.
pub(super) fn rows(of: &Inspection) -> Vec<[String; 2]> {
    let mut rows = vec![
        ["trace".to_owned(), of.file.clone()],
        ["format".to_owned(), of.format.clone()],
        ["sha256".to_owned(), of.sha256.clone()],
    ];
    let mut add = |what: &str, value: String| rows.push([what.to_owned(), value]);
    let failed =
        if of.failed > 0 { format!(", {} recorded as failed (not replayed)", of.failed) } else { String::new() };
    add("requests", format!("{}{failed}", of.requests));
    if of.skipped > 0 {
        add("skipped", format!("{} chats without an answered question", of.skipped));
    }
    add("span", of.span_s.map_or("no times in this format".to_owned(), |span| format!("{span:.3} s")));
    if let Some(arrivals) = &of.arrivals {
        let cv = format!("{:.3} requests/s, gaps' CV {:.2} (Poisson: 1)", arrivals.rate_per_s, arrivals.gap_cv);
        add("arrivals", cv);
        let counts =
            |c: &Counts| format!("mean {:.2}, peak {}, dispersion {:.2} (Poisson: 1)", c.mean, c.peak, c.dispersion);
        add("in a second", counts(&arrivals.per_second));
        if let Some(minute) = &arrivals.per_minute {
            add("in a minute", counts(minute));
        }
    }
    match &of.turns {
        Some(turns) => {
            let orphans = match turns.without_parent {
                0 => String::new(),
                n => format!("; {n} later turns without an earlier one in the trace"),
            };
            add("chats", format!("{}, with {} follow-ups{orphans}", turns.chats, turns.follow_ups));
        }
        None => add("chats", "not linked in this trace".to_owned()),
    }
    match &of.prefix {
        Some(prefix) => {
            let exact = format!("{:.2} % of prompt tokens", prefix.ideal_hit_rate * 100.0);
            add("ideal hit rate", format!("{exact}; in pages of 16: {:.2} %", prefix.ideal_hit_rate_page_16 * 100.0));
            let off = match prefix.length_mismatch {
                0 => String::new(),
                n => format!("; {n} requests have fewer or more than their length asks for"),
            };
            let ids = (prefix.ids, prefix.distinct_ids, prefix.block_size);
            add("hash ids", format!("{} of {} tokens, {} distinct{off}", ids.0, ids.2, ids.1));
        }
        None => add("ideal hit rate", "not known: no hash ids".to_owned()),
    }
    for (context, share) in &of.above_context {
        add(&format!("above {context} tokens"), format!("{:.2} % of requests", share * 100.0));
    }
    rows
}
