//! One setting's value: how its text is read, checked and written back.
//!
//! Owns parsing and bounds. Knows neither a setting's name nor where the text came from: flag, variable and file are
//! read by the same code, so they accept the same and say the same.
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use crate::settings::{
    CacheType, DTypeChoice, DeviceKind, GenerationDefaults, HubSource, KvCacheDType, LogLevel, LogSettings,
    MetricsPrefix, Quantize, ServeSettings,
};

/// Everything that flags, variables or a file can decide, whatever the command.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    pub(crate) serve: ServeSettings,
    pub(crate) log: LogSettings,
    /// Checked against the device, then of no more use: a device has one way to attend.
    pub(crate) attention_backend: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self { serve: ServeSettings::default(), log: LogSettings::default(), attention_backend: "auto".to_owned() }
    }
}

/// How TOML writes a value, and whether a flag needs one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Switch,
    Integer,
    Number,
    Text,
    /// A text such as `30s`, or a number of seconds.
    Span,
}

/// A place in [`Settings`], how its text is read and what it may be.
pub(crate) trait Field: Sync {
    fn form(&self) -> Form;
    /// What a value may be: ends "expected …".
    fn expects(&self) -> String;
    /// `expects`, where it says more than the setting's help does.
    fn detail(&self) -> Option<String> {
        Some(self.expects())
    }
    /// The value's placeholder in `--help`.
    fn placeholder(&self) -> &'static str;
    /// Stores the value, or says why not.
    fn set(&self, settings: &mut Settings, text: &str) -> Result<(), String>;
    /// The value as `set` reads it; `None` where it is not set.
    fn get(&self, settings: &mut Settings) -> Option<String>;
    /// What holds while it is not set.
    fn unset(&self) -> &'static str {
        ""
    }
}

fn expected(field: &dyn Field) -> String {
    format!("expected {}", field.expects())
}

/// A whole number in `min ..= max`.
pub(crate) struct Integer<T> {
    pub(crate) at: fn(&mut Settings) -> &mut T,
    pub(crate) min: T,
    pub(crate) max: T,
}

impl<T: Copy + Display + FromStr + PartialOrd + Sync> Field for Integer<T> {
    fn form(&self) -> Form {
        Form::Integer
    }
    fn expects(&self) -> String {
        format!("a whole number from {} to {}", self.min, self.max)
    }
    fn placeholder(&self) -> &'static str {
        "N"
    }
    fn set(&self, settings: &mut Settings, text: &str) -> Result<(), String> {
        *(self.at)(settings) = whole(text, self.min, self.max).ok_or_else(|| expected(self))?;
        Ok(())
    }
    fn get(&self, settings: &mut Settings) -> Option<String> {
        Some((self.at)(settings).to_string())
    }
}

/// A whole number in `min ..= max`, or not set.
pub(crate) struct OptionalInteger {
    pub(crate) at: fn(&mut Settings) -> &mut Option<usize>,
    pub(crate) min: usize,
    pub(crate) max: usize,
    pub(crate) unset: &'static str,
}

impl Field for OptionalInteger {
    fn form(&self) -> Form {
        Form::Integer
    }
    fn expects(&self) -> String {
        format!("a whole number from {} to {}", self.min, self.max)
    }
    fn placeholder(&self) -> &'static str {
        "N"
    }
    fn set(&self, settings: &mut Settings, text: &str) -> Result<(), String> {
        *(self.at)(settings) = Some(whole(text, self.min, self.max).ok_or_else(|| expected(self))?);
        Ok(())
    }
    fn get(&self, settings: &mut Settings) -> Option<String> {
        (self.at)(settings).map(|n| n.to_string())
    }
    fn unset(&self) -> &'static str {
        self.unset
    }
}

fn whole<T: FromStr + PartialOrd>(text: &str, min: T, max: T) -> Option<T> {
    text.parse().ok().filter(|n| *n >= min && *n <= max)
}

/// A number in `min ..= max`, or in `(min, max]` where `min` itself is no value.
pub(crate) struct Real {
    pub(crate) at: fn(&mut Settings) -> &mut f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) above_min: bool,
}

impl Field for Real {
    fn form(&self) -> Form {
        Form::Number
    }
    fn expects(&self) -> String {
        match self.above_min {
            true => format!("a number above {} and at most {}", self.min, self.max),
            false => format!("a number from {} to {}", self.min, self.max),
        }
    }
    fn placeholder(&self) -> &'static str {
        "X"
    }
    fn set(&self, settings: &mut Settings, text: &str) -> Result<(), String> {
        let inside = |x: &f64| *x <= self.max && if self.above_min { *x > self.min } else { *x >= self.min };
        *(self.at)(settings) = text.parse().ok().filter(inside).ok_or_else(|| expected(self))?;
        Ok(())
    }
    fn get(&self, settings: &mut Settings) -> Option<String> {
        Some(format!("{:?}", (self.at)(settings)))
    }
}

/// On or off.
pub(crate) struct Switch {
    pub(crate) at: fn(&mut Settings) -> &mut bool,
    /// What the setting's `true` stores: false for a `disable-…`.
    pub(crate) on: bool,
}

impl Field for Switch {
    fn form(&self) -> Form {
        Form::Switch
    }
    fn expects(&self) -> String {
        "true or false".to_owned()
    }
    fn detail(&self) -> Option<String> {
        None
    }
    fn placeholder(&self) -> &'static str {
        "true|false"
    }
    fn set(&self, settings: &mut Settings, text: &str) -> Result<(), String> {
        let given = truth(text).ok_or_else(|| expected(self))?;
        *(self.at)(settings) = given == self.on;
        Ok(())
    }
    fn get(&self, settings: &mut Settings) -> Option<String> {
        Some((*(self.at)(settings) == self.on).to_string())
    }
}

fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Some(true),
        "0" | "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// Any text that says something.
pub(crate) struct Text {
    pub(crate) at: fn(&mut Settings) -> &mut String,
    pub(crate) placeholder: &'static str,
}

impl Field for Text {
    fn form(&self) -> Form {
        Form::Text
    }
    fn expects(&self) -> String {
        "a text that is not empty".to_owned()
    }
    fn detail(&self) -> Option<String> {
        None
    }
    fn placeholder(&self) -> &'static str {
        self.placeholder
    }
    fn set(&self, settings: &mut Settings, text: &str) -> Result<(), String> {
        *(self.at)(settings) = said(text).ok_or_else(|| expected(self))?;
        Ok(())
    }
    fn get(&self, settings: &mut Settings) -> Option<String> {
        Some((self.at)(settings).clone())
    }
}

/// Any text that says something, or not set.
pub(crate) struct OptionalText {
    pub(crate) at: fn(&mut Settings) -> &mut Option<String>,
    pub(crate) placeholder: &'static str,
    pub(crate) unset: &'static str,
}

impl Field for OptionalText {
    fn form(&self) -> Form {
        Form::Text
    }
    fn expects(&self) -> String {
        "a text that is not empty".to_owned()
    }
    fn detail(&self) -> Option<String> {
        None
    }
    fn placeholder(&self) -> &'static str {
        self.placeholder
    }
    fn set(&self, settings: &mut Settings, text: &str) -> Result<(), String> {
        *(self.at)(settings) = Some(said(text).ok_or_else(|| expected(self))?);
        Ok(())
    }
    fn get(&self, settings: &mut Settings) -> Option<String> {
        (self.at)(settings).clone()
    }
    fn unset(&self) -> &'static str {
        self.unset
    }
}

fn said(text: &str) -> Option<String> {
    (!text.trim().is_empty()).then(|| text.to_owned())
}

/// A span of time to the microsecond, in `min ..= max`.
pub(crate) struct Span {
    pub(crate) at: fn(&mut Settings) -> &mut Duration,
    pub(crate) min: Duration,
    pub(crate) max: Duration,
}

impl Field for Span {
    fn form(&self) -> Form {
        Form::Span
    }
    fn expects(&self) -> String {
        let (min, max) = (span_text(self.min), span_text(self.max));
        format!("a time from {min} to {max}, such as 500ms, 30s, 2m or 1h")
    }
    fn placeholder(&self) -> &'static str {
        "TIME"
    }
    fn set(&self, settings: &mut Settings, text: &str) -> Result<(), String> {
        let inside = |span: &Duration| *span >= self.min && *span <= self.max;
        *(self.at)(settings) = span(text).filter(inside).ok_or_else(|| expected(self))?;
        Ok(())
    }
    fn get(&self, settings: &mut Settings) -> Option<String> {
        Some(span_text(*(self.at)(settings)))
    }
}

/// A span of time to the microsecond in `ZERO ..= max`, or not set.
pub(crate) struct OptionalSpan {
    pub(crate) at: fn(&mut Settings) -> &mut Option<Duration>,
    pub(crate) max: Duration,
    pub(crate) unset: &'static str,
}

impl Field for OptionalSpan {
    fn form(&self) -> Form {
        Form::Span
    }
    fn expects(&self) -> String {
        format!("a time from 0s to {}, such as 50ms, 0.5ms or 0.02s", span_text(self.max))
    }
    fn placeholder(&self) -> &'static str {
        "TIME"
    }
    fn set(&self, settings: &mut Settings, text: &str) -> Result<(), String> {
        *(self.at)(settings) = Some(span(text).filter(|span| *span <= self.max).ok_or_else(|| expected(self))?);
        Ok(())
    }
    fn get(&self, settings: &mut Settings) -> Option<String> {
        (self.at)(settings).map(span_text)
    }
    fn unset(&self) -> &'static str {
        self.unset
    }
}

fn span(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let us_each = match unit {
        "ms" => 1e3,
        "" | "s" => 1e6,
        "m" => 60e6,
        "h" => 3600e6,
        _ => return None,
    };
    // `as` saturates: a span beyond every bound stays beyond it.
    number.parse::<f64>().ok().map(|n| Duration::from_micros((n * us_each).round() as u64))
}

fn span_text(span: Duration) -> String {
    match span.as_micros() {
        us if us % 1_000_000 == 0 => format!("{}s", us / 1_000_000),
        us if us % 1000 == 0 => format!("{}ms", us / 1000),
        us => format!("{}.{:03}ms", us / 1000, us % 1000),
    }
}

/// A simulated GPU's profile, or not set.
pub(crate) struct ProfileName {
    pub(crate) at: fn(&mut Settings) -> &mut Option<String>,
}

impl Field for ProfileName {
    fn form(&self) -> Form {
        Form::Text
    }
    fn expects(&self) -> String {
        crate::sim::expects()
    }
    fn placeholder(&self) -> &'static str {
        "NAME"
    }
    fn set(&self, settings: &mut Settings, text: &str) -> Result<(), String> {
        crate::sim::check_name(text)?;
        *(self.at)(settings) = Some(text.to_owned());
        Ok(())
    }
    fn get(&self, settings: &mut Settings) -> Option<String> {
        (self.at)(settings).clone()
    }
    fn unset(&self) -> &'static str {
        crate::sim::DEFAULT_PROFILE
    }
}

/// A closed set of values with names.
pub(crate) trait Named: Copy + PartialEq + 'static {
    /// Names and what they mean; the first name of a value is the one that is shown.
    const NAMES: &'static [(&'static str, Self)];
    /// Names that are known and not there yet, each with what to do instead.
    const ABSENT: &'static [(&'static str, &'static str)] = &[];
    /// Names that are taken but not advertised.
    const SPELLINGS: &'static [(&'static str, Self)] = &[];
}

/// One of a [`Named`] type's values.
pub(crate) struct Choice<T: Named> {
    pub(crate) at: fn(&mut Settings) -> &mut T,
}

impl<T: Named> Field for Choice<T> {
    fn form(&self) -> Form {
        Form::Text
    }
    fn expects(&self) -> String {
        let names: Vec<&str> = T::NAMES.iter().map(|(name, _)| *name).collect();
        let (last, others) = names.split_last().expect("a choice has names");
        format!("{} or {last}", others.join(", "))
    }
    fn placeholder(&self) -> &'static str {
        "NAME"
    }
    fn set(&self, settings: &mut Settings, text: &str) -> Result<(), String> {
        if let Some((_, instead)) = T::ABSENT.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)) {
            return Err((*instead).to_owned());
        }
        let mut names = T::NAMES.iter().chain(T::SPELLINGS);
        let found = names.find(|(name, _)| name.eq_ignore_ascii_case(text));
        *(self.at)(settings) = found.ok_or_else(|| expected(self))?.1;
        Ok(())
    }
    fn get(&self, settings: &mut Settings) -> Option<String> {
        let value = *(self.at)(settings);
        T::NAMES.iter().find(|(_, named)| *named == value).map(|(name, _)| (*name).to_owned())
    }
}

/// A setting of a part that is not there yet: one value is taken, which changes nothing.
pub(crate) struct Absent {
    pub(crate) form: Form,
    /// The one value that is taken.
    pub(crate) only: &'static str,
    /// What is not there, and what to use.
    pub(crate) why: &'static str,
}

impl Field for Absent {
    fn form(&self) -> Form {
        self.form
    }
    fn expects(&self) -> String {
        self.only.to_owned()
    }
    fn placeholder(&self) -> &'static str {
        self.only
    }
    fn set(&self, _: &mut Settings, text: &str) -> Result<(), String> {
        let fine = match self.form {
            Form::Switch => truth(text) == truth(self.only),
            _ => text.eq_ignore_ascii_case(self.only),
        };
        if fine { Ok(()) } else { Err(self.why.to_owned()) }
    }
    fn get(&self, _: &mut Settings) -> Option<String> {
        Some(self.only.to_owned())
    }
}

/// Which code attends: `auto`, a device's own name, or such a pair for prefill and decode.
pub(crate) struct AttentionBackend;

impl Field for AttentionBackend {
    fn form(&self) -> Form {
        Form::Text
    }
    fn expects(&self) -> String {
        "auto or the device's own name (cpu, reference, sim), or such a pair for prefill,decode".to_owned()
    }
    fn placeholder(&self) -> &'static str {
        "NAME"
    }
    fn set(&self, settings: &mut Settings, text: &str) -> Result<(), String> {
        let names: Vec<&str> = text.split(',').collect();
        if let Some(name) = names.iter().find(|name| ["fa", "fi", "trtllm"].contains(name)) {
            return Err(format!(
                "{name} is other people's kernels, which are not used here: use auto or the device's own name"
            ));
        }
        if names.len() > 2 || !names.iter().all(|name| ["auto", "cpu", "reference", "sim"].contains(name)) {
            return Err(expected(self));
        }
        settings.attention_backend = text.to_owned();
        Ok(())
    }
    fn get(&self, settings: &mut Settings) -> Option<String> {
        Some(settings.attention_backend.clone())
    }
}

impl Named for HubSource {
    const NAMES: &'static [(&'static str, Self)] =
        &[("huggingface", Self::HuggingFace), ("modelscope", Self::ModelScope)];
}

impl Named for DTypeChoice {
    const NAMES: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("float16", Self::Float16), ("bfloat16", Self::BFloat16), ("float32", Self::Float32)];
}

impl Named for Quantize {
    const NAMES: &'static [(&'static str, Self)] = &[("none", Self::None), ("int8", Self::Int8), ("int4", Self::Int4)];
}

impl Named for KvCacheDType {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("float16", Self::Float16),
        ("bfloat16", Self::BFloat16),
        ("float32", Self::Float32),
        ("int8", Self::Int8),
    ];
}

impl Named for DeviceKind {
    const NAMES: &'static [(&'static str, Self)] =
        &[("cpu", Self::Cpu), ("reference", Self::Reference), ("sim", Self::Sim)];
    const ABSENT: &'static [(&'static str, &'static str)] = &[("cuda", "the CUDA device is not there yet: use cpu")];
}

impl Named for CacheType {
    const NAMES: &'static [(&'static str, Self)] = &[("radix", Self::Radix), ("naive", Self::Naive)];
}

impl Named for GenerationDefaults {
    const NAMES: &'static [(&'static str, Self)] = &[("auto", Self::Auto), ("none", Self::None)];
}

impl Named for MetricsPrefix {
    const NAMES: &'static [(&'static str, Self)] = &[("minisgl", Self::Minisgl), ("vllm", Self::Vllm)];
}

impl Named for LogLevel {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("off", Self::Off),
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];
    // Python's names: LOG_LEVEL is shared with programs that use those.
    const SPELLINGS: &'static [(&'static str, Self)] =
        &[("warning", Self::Warn), ("critical", Self::Error), ("fatal", Self::Error), ("notset", Self::Trace)];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_time_read_and_print() {
        for (text, ms, shown) in [
            ("30s", 30_000, "30s"),
            ("30", 30_000, "30s"),
            ("1.5s", 1500, "1500ms"),
            ("250ms", 250, "250ms"),
            ("2m", 120_000, "120s"),
            ("1h", 3_600_000, "3600s"),
            ("0", 0, "0s"),
            ("0.5ms", 0, "0.500ms"),
            ("0.0205s", 20, "20.500ms"),
        ] {
            let read = span(text).unwrap();
            assert_eq!((read.as_millis(), span_text(read).as_str()), (ms, shown), "{text}");
            assert_eq!(span(&span_text(read)), Some(read));
        }
        for text in ["", "s", "-1s", "1 s", "1d", "1.2.3s", "inf", "nan", "１s"] {
            assert_eq!(span(text), None, "{text}");
        }
    }

    #[test]
    fn numbers_keep_their_bounds() {
        assert_eq!(whole("1", 1, 5), Some(1));
        assert_eq!(whole("5", 1, 5), Some(5));
        for text in ["0", "6", "", "x", "1.0", "-1", "99999999999999999999999"] {
            assert_eq!(whole::<usize>(text, 1, 5), None, "{text}");
        }
        let mut settings = Settings::default();
        let ratio = Real { at: |s| &mut s.serve.engine.memory_ratio, min: 0.0, max: 1.0, above_min: true };
        for text in ["0", "1.01", "nan", "inf", "-0.5", "half", "90%"] {
            assert_eq!(
                ratio.set(&mut settings, text).unwrap_err(),
                "expected a number above 0 and at most 1",
                "{text}"
            );
        }
        ratio.set(&mut settings, "1").unwrap();
        assert_eq!(settings.serve.engine.memory_ratio, 1.0);
    }
}
