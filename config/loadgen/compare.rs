//! `minisgl loadgen compare`: its flags.
use std::path::PathBuf;

/// Flags of the comparison.
#[derive(clap::Args, Clone, Debug, PartialEq)]
pub struct CompareArgs {
    /// What stood before: a `summary.json`, a `records.jsonl`, or the folder of --out
    #[arg(value_name = "A")]
    pub before: PathBuf,

    /// What is judged, of the same kinds
    #[arg(value_name = "B")]
    pub after: PathBuf,

    /// How much worse a figure may be, as a share of A's
    #[arg(long, value_name = "PERCENT", default_value = "5%", value_parser = percent)]
    pub tolerance: f64,

    /// Write the comparison as JSON, in place of the table; `-` is stdout
    #[arg(long, value_name = "FILE|-")]
    pub json: Option<String>,
}

/// `5%`, or `5`: a share.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text);
    let parsed: Option<f64> = number.trim().parse().ok().filter(|percent| (0.0..=1000.0).contains(percent));
    parsed.map(|percent| percent / 100.0).ok_or_else(|| "must be 0% to 1000%, e.g. 5%".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tolerance_is_a_percentage() {
        assert_eq!((percent("5%"), percent("2.5"), percent("0%")), (Ok(0.05), Ok(0.025), Ok(0.0)));
        for text in ["", "%", "-1%", "x", "nan", "inf", "1001%"] {
            assert!(percent(text).is_err(), "{text}");
        }
    }
}
