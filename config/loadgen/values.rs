//! How the values of `minisgl loadgen`'s flags are spelled, and their bounds.
//!
//! Owns the reading of one value at a time: every error says what would be right. Knows nothing of other flags.
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::args::Mix;
use super::settings::{LengthClass, LengthDistribution, SharedPrefix, Slo};
use crate::{LONGEST, LengthRange};

/// Most requests of one run: a record of each is kept.
pub(super) const MOST_REQUESTS: u64 = 10_000_000;

/// Most requests of a closed loop in flight: beyond it, the system's ports end before the server does.
pub(super) const MOST_CONCURRENT: u64 = 60_000;

/// Largest scale of times or lengths, longest time in seconds, highest rate a second.
const LARGEST: f64 = 1e6;

/// Most values of a list: a run each.
const MOST_POINTS: usize = 1000;

/// Most classes of a mix.
const MOST_CLASSES: usize = 1000;

/// A JSON object. A name of its own, since clap wants `Clone` and a type it has no meaning for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object(pub serde_json::Map<String, serde_json::Value>);

/// `--sweep`
#[derive(Clone, Debug, PartialEq)]
pub enum Sweep {
    /// As `--rate`.
    Rate(Vec<f64>),
    /// As `--time-scale`.
    Scale(Vec<f64>),
    /// As `--concurrency`.
    Concurrency(Vec<u64>),
}

impl Sweep {
    /// The flag that means the same.
    pub(super) fn flag(&self) -> &'static str {
        match self {
            Self::Rate(_) => "--rate",
            Self::Scale(_) => "--time-scale",
            Self::Concurrency(_) => "--concurrency",
        }
    }
}

fn bounded(text: &str, bounds: std::ops::RangeInclusive<f64>, what: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(value) if bounds.contains(&value) => Ok(value),
        _ => Err(format!("must be {what}, at most {}", bounds.end())),
    }
}

pub(super) fn time_scale(text: &str) -> Result<f64, String> {
    bounded(text, 0.0..=LARGEST, "a number of at least 0 (0 sends everything at once)")
}

pub(super) fn length_scale(text: &str) -> Result<f64, String> {
    bounded(text, f64::MIN_POSITIVE..=LARGEST, "a number above 0")
}

pub(super) fn rate(text: &str) -> Result<f64, String> {
    bounded(text, 1e-6..=LARGEST, "requests a second, at least 0.000001")
}

pub(super) fn burstiness(text: &str) -> Result<f64, String> {
    bounded(text, 0.01..=LARGEST, "a number of at least 0.01")
}

pub(super) fn temperature(text: &str) -> Result<f64, String> {
    bounded(text, 0.0..=100.0, "a number of at least 0")
}

pub(super) fn share(text: &str) -> Result<f64, String> {
    bounded(text, f64::MIN_POSITIVE..=1.0, "a share above 0")
}

pub(super) fn precision(text: &str) -> Result<f64, String> {
    bounded(text, 0.001..=1.0, "a share of at least 0.001")
}

/// A time that may be 0.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    duration(text, 0.0)
}

/// A time above 0.
pub(super) fn some_time(text: &str) -> Result<Duration, String> {
    duration(text, 1e-6)
}

pub(super) fn timeout(text: &str) -> Result<Duration, String> {
    duration(text, 0.001)
}

/// `500us`, `500ms`, `2s`, `1.5m`, `1h`; a plain number is seconds.
fn duration(text: &str, least_s: f64) -> Result<Duration, String> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_s = match &text[digits.len()..] {
        "us" => Some(1e-6),
        "ms" => Some(1e-3),
        "s" | "" => Some(1.0),
        "m" | "min" => Some(60.0),
        "h" => Some(3600.0),
        _ => None,
    };
    let seconds = digits.trim_end().parse::<f64>().ok().zip(unit_s).map(|(number, unit)| number * unit);
    match seconds {
        Some(seconds) if (least_s..=LARGEST).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => {
            let least = if least_s > 0.0 { format!("at least {} ms", least_s * 1e3) } else { "at least 0".to_owned() };
            Err(format!(
                "must be a time such as 500ms, 2s or 1m (a plain number is seconds), {least}, at most {LARGEST} s"
            ))
        }
    }
}

pub(super) fn longest(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(n) if (1..=LONGEST).contains(&n) => Ok(n),
        _ => Err(format!("must be a number of tokens from 1 to {LONGEST}")),
    }
}

pub(super) fn sweep(text: &str) -> Result<Sweep, String> {
    let wrong = || "must be rate=1,2,4, scale=0.5,1 or concurrency=1,8,64".to_owned();
    let (what, listed) = text.split_once('=').ok_or_else(wrong)?;
    match what.trim() {
        "rate" => list(listed, rate).map(Sweep::Rate),
        "scale" => list(listed, time_scale).map(Sweep::Scale),
        "concurrency" => list(listed, concurrency).map(Sweep::Concurrency),
        _ => Err(wrong()),
    }
}

fn concurrency(text: &str) -> Result<u64, String> {
    match text.trim().parse::<u64>() {
        Ok(n) if (1..=MOST_CONCURRENT).contains(&n) => Ok(n),
        _ => Err(format!("must be a number from 1 to {MOST_CONCURRENT}")),
    }
}

fn list<T>(text: &str, one: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    let values: Vec<T> =
        text.split(',').map(|value| one(value).map_err(|why| format!("`{value}` {why}"))).collect::<Result<_, _>>()?;
    if values.len() > MOST_POINTS {
        return Err(format!("has {} values, each of them a run: at most {MOST_POINTS}", values.len()));
    }
    Ok(values)
}

pub(super) fn shared_prefix(text: &str) -> Result<SharedPrefix, String> {
    let wrong = || format!("must be GROUPS:TOKENS, e.g. 8:1000, with at most {LONGEST} of each");
    let number = |text: &str| text.parse::<usize>().ok().filter(|n| (1..=LONGEST).contains(n)).ok_or_else(wrong);
    let (groups, tokens) = text.split_once(':').ok_or_else(wrong)?;
    Ok(SharedPrefix { groups: number(groups)?, tokens: number(tokens)? })
}

pub(super) fn slo(text: &str) -> Result<Slo, String> {
    let mut slo = Slo::default();
    for part in text.split(',') {
        let wrong = || format!("has `{part}`: bounds are ttft=500ms, tpot=50ms and e2e=10s, each at most once");
        let (name, bound) = part.split_once('=').ok_or_else(wrong)?;
        let place = match name.trim() {
            "ttft" => &mut slo.ttft,
            "tpot" => &mut slo.tpot,
            "e2e" => &mut slo.e2e,
            _ => return Err(wrong()),
        };
        if place.is_some() {
            return Err(wrong());
        }
        *place = Some(some_time(bound).map_err(|why| format!("has {name}={bound}, which {why}"))?);
    }
    Ok(slo)
}

/// Headers that the client writes itself: another value would break the request.
const OWN_HEADERS: [&str; 8] = [
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "te",
    "transfer-encoding",
];

pub(super) fn header(text: &str) -> Result<(String, String), String> {
    let wrong = || "must be a name, a colon and a value, e.g. 'X-Team: search'".to_owned();
    let (name, value) = text.split_once(':').ok_or_else(wrong)?;
    let (name, value) = (name.trim(), value.trim());
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(token) {
        return Err(wrong());
    }
    if let Some(odd) = value.chars().find(|&c| !(c == '\t' || (' '..='~').contains(&c))) {
        return Err(format!("has {odd:?} in its value: printable ASCII only"));
    }
    if OWN_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
        return Err(format!("sets {name}, which the load generator writes itself"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

pub(super) fn extra_body(text: &str) -> Result<Object, String> {
    let serde_json::Value::Object(map) = serde_json::from_str(text)
        .map_err(|error| format!("must be a JSON object, e.g. '{{\"top_p\":0.9}}': {error}"))?
    else {
        return Err("must be a JSON object, e.g. '{\"top_p\":0.9}'".to_owned());
    };
    match map.keys().find(|key| ["messages", "prompt", "stream"].contains(&key.as_str())) {
        Some(key) => {
            Err(format!("sets `{key}`, which is the load generator's own: prompts are made, answers streamed"))
        }
        None => Ok(Object(map)),
    }
}

pub(super) fn mix(text: &str) -> Result<Mix, String> {
    let mut classes: Vec<LengthClass> = Vec::new();
    for part in text.split(';').filter(|part| !part.trim().is_empty()) {
        let class = class(part.trim()).map_err(|why| format!("has `{part}`, {why}"))?;
        if classes.iter().any(|other| other.name == class.name) {
            return Err(format!("has two classes of the name `{}`", class.name));
        }
        classes.push(class);
    }
    match classes.len() {
        0 => Err("names no class: NAME=WEIGHT:INPUT:OUTPUT;…".to_owned()),
        n if n > MOST_CLASSES => Err(format!("has {n} classes: at most {MOST_CLASSES}")),
        _ => Ok(Mix(classes)),
    }
}

fn class(text: &str) -> Result<LengthClass, String> {
    let wrong = || "which is not NAME=WEIGHT:INPUT:OUTPUT (lengths as --input-len spells them)".to_owned();
    let (name, rest) = text.split_once('=').ok_or_else(wrong)?;
    let name = name.trim();
    if name.is_empty() || name.len() > 64 || name.contains(|c: char| c.is_control() || c == '"' || c == '\\') {
        return Err("whose name is empty, longer than 64 bytes or has a quotation mark or control character".to_owned());
    }
    let (weight, rest) = rest.split_once(':').ok_or_else(wrong)?;
    let weight = bounded(weight, f64::MIN_POSITIVE..=LARGEST, "a number above 0")
        .map_err(|why| format!("whose weight {why}"))?;
    // A colon also stands after a distribution's name: it belongs to what follows.
    let mut lengths: Vec<String> = Vec::new();
    let mut parts = rest.split(':');
    while let Some(part) = parts.next() {
        lengths.push(match part.trim() {
            kind @ ("normal" | "lognormal" | "file") => format!("{kind}:{}", parts.next().ok_or_else(wrong)?),
            plain => plain.to_owned(),
        });
    }
    let [input, output] = lengths.as_slice() else {
        return Err(wrong());
    };
    Ok(LengthClass { name: name.to_owned(), weight, input: input.parse()?, output: output.parse()? })
}

impl FromStr for LengthDistribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pair = |text: &str| {
            let (a, b) = text.split_once(',')?;
            Some((a.trim().parse::<f64>().ok()?, b.trim().parse::<f64>().ok()?))
        };
        let most = LONGEST as f64;
        match text.split_once(':') {
            Some(("normal", rest)) => match pair(rest) {
                Some((mean, sd)) if (1.0..=most).contains(&mean) && (0.0..=most).contains(&sd) => {
                    Ok(Self::Normal { mean, sd })
                }
                _ => Err(format!("`{text}` must be normal:MEAN,SD in tokens, e.g. normal:500,100, at most {LONGEST}")),
            },
            Some(("lognormal", rest)) => match pair(rest) {
                Some((median, sigma)) if (1.0..=most).contains(&median) && (0.0..=10.0).contains(&sigma) => {
                    Ok(Self::LogNormal { median, sigma })
                }
                _ => Err(format!(
                    "`{text}` must be lognormal:MEDIAN,SIGMA, the median in tokens and the deviation of the logarithm from 0 \
                     to 10, e.g. lognormal:300,0.8"
                )),
            },
            Some(("file", "")) => Err("`file:` lacks its path".to_owned()),
            Some(("file", path)) => Ok(Self::File(PathBuf::from(path))),
            Some(_) => Err(format!(
                "`{text}` is not a length: N, A-B, normal:MEAN,SD, lognormal:MEDIAN,SIGMA or file:PATH, e.g. 100-1024"
            )),
            None => text.parse::<LengthRange>().map(Self::Uniform).map_err(|error| error.to_string()),
        }
    }
}

impl fmt::Display for LengthDistribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform(range) => range.fmt(f),
            Self::Normal { mean, sd } => write!(f, "normal:{mean},{sd}"),
            Self::LogNormal { median, sigma } => write!(f, "lognormal:{median},{sigma}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}
