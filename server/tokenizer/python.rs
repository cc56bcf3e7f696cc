//! What templates expect of Python: transformers' Jinja environment, its functions and filters, Python's way to print.
//!
//! Knows nothing of messages or models.
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value};

/// Nested lists and maps that `tojson` goes down.
const JSON_DEPTH: usize = 128;

/// An environment as transformers makes it: blocks trimmed, `break` and `continue`, Python's string and dict methods,
/// `raise_exception`, `strftime_now`, and a `tojson` that escapes no HTML.
pub(crate) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_formatter(print);
    environment.add_filter("tojson", tojson);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |format: String| strftime(&format, SystemTime::now()));
    environment
}

/// transformers' `{% generation %}` marks what the assistant wrote, for training. Here it is a block that changes
/// nothing; lines stay where they are.
pub(crate) fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let inner = &tag[2..end];
        let name = inner.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        let replaced = match name {
            "generation" => inner.replace(name, "if true"),
            "endgeneration" => inner.replace(name, "endif"),
            _ => inner.to_owned(),
        };
        out.push_str("{%");
        out.push_str(&replaced);
        out.push_str("%}");
        rest = &tag[end + 2..];
    }
    out.push_str(rest);
    out
}

/// `{{ value }}` as Python prints it: `None`, `True`, floats as `repr` has them.
fn print(output: &mut Output<'_>, state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    let text = match value.kind() {
        ValueKind::None => "None",
        ValueKind::Bool if value.is_true() => "True",
        ValueKind::Bool => "False",
        ValueKind::Number if !value.is_integer() => return Ok(output.write_str(&float(value))?),
        _ => return minijinja::escape_formatter(output, state, value),
    };
    Ok(output.write_str(text)?)
}

/// A float as Python's `repr`: the shortest that reads back, with exponents of at least two digits.
fn float(value: &Value) -> String {
    let Ok(number) = f64::try_from(value.clone()) else { return value.to_string() };
    if number.is_nan() {
        return "NaN".into();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    // Rust turns to exponents where Python does, and writes 1e16 and 1e-5 where Python has 1e+16 and 1e-05.
    let text = format!("{number:?}");
    match text.split_once('e') {
        None => text,
        Some((digits, exponent)) => {
            let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
            format!("{}e{sign}{exponent:0>2}", digits.trim_end_matches(".0"))
        }
    }
}

/// `json.dumps` with `ensure_ascii=False`, as transformers' `tojson`.
fn tojson(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get::<Option<usize>>("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let mut json = Json {
        text: String::new(),
        indent,
        item: if indent.is_some() { ",".into() } else { ", ".into() },
        key: ": ".into(),
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    if let Some(separators) = separators {
        let [item, key] = <[String; 2]>::try_from(separators)
            .map_err(|_| Error::new(ErrorKind::InvalidOperation, "tojson: separators must be two texts"))?;
        json.item = item;
        json.key = key;
    }
    json.write(value, 0)?;
    Ok(Value::from_safe_string(json.text))
}

struct Json {
    text: String,
    indent: Option<usize>,
    item: String,
    key: String,
    sort_keys: bool,
    ascii: bool,
}

impl Json {
    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > JSON_DEPTH {
            return Err(Error::new(ErrorKind::InvalidOperation, "tojson: too deeply nested"));
        }
        match value.kind() {
            ValueKind::None => self.text.push_str("null"),
            ValueKind::Bool => self.text.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => self.text.push_str(&value.to_string()),
            ValueKind::Number => self.text.push_str(&float(value)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.list(['[', ']'], items.len(), depth, |json, i| json.write(&items[i], depth + 1))?;
            }
            ValueKind::Map => self.map(value, depth)?,
            other => {
                let why = format!("tojson: {other} is not JSON");
                return Err(Error::new(ErrorKind::InvalidOperation, why));
            }
        }
        Ok(())
    }

    fn map(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let mut keys: Vec<Value> = value.try_iter()?.collect();
        if self.sort_keys {
            keys.sort();
        }
        self.list(['{', '}'], keys.len(), depth, |json, i| {
            json.string(&keys[i].to_string());
            let separator = std::mem::take(&mut json.key);
            json.text.push_str(&separator);
            json.key = separator;
            json.write(&value.get_item(&keys[i])?, depth + 1)
        })
    }

    fn list(
        &mut self,
        [open, close]: [char; 2],
        len: usize,
        depth: usize,
        mut write: impl FnMut(&mut Self, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.text.push(open);
        for i in 0..len {
            if i > 0 {
                let item = std::mem::take(&mut self.item);
                self.text.push_str(&item);
                self.item = item;
            }
            self.new_line(depth + 1);
            write(self, i)?;
        }
        if len > 0 {
            self.new_line(depth);
        }
        self.text.push(close);
        Ok(())
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = self.indent {
            self.text.push('\n');
            self.text.extend(std::iter::repeat_n(' ', indent.min(16) * depth));
        }
    }

    fn string(&mut self, text: &str) {
        self.text.push('"');
        for c in text.chars() {
            match c {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                '\u{8}' => self.text.push_str("\\b"),
                '\u{c}' => self.text.push_str("\\f"),
                c if c < ' ' || (self.ascii && !c.is_ascii()) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        write!(self.text, "\\u{unit:04x}").expect("a String takes all text");
                    }
                }
                c => self.text.push(c),
            }
        }
        self.text.push('"');
    }
}

/// `datetime.now().strftime(format)`, of UTC: a server's output should not depend on where it stands. Directives that are
/// not known stay as they are.
fn strftime(format: &str, now: SystemTime) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let days = seconds / 86_400;
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let (year, day_of_year, month, day) = date(days);
    let (month_name, day_name) = (MONTHS[month], DAYS[(days % 7) as usize]);
    let hour12 = (hour + 11) % 12 + 1;

    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        // Writing to a String cannot fail.
        let _ = match chars.next() {
            Some('Y') => write!(out, "{year}"),
            Some('y') => write!(out, "{:02}", year % 100),
            Some('m') => write!(out, "{:02}", month + 1),
            Some('B') => write!(out, "{month_name}"),
            Some('b' | 'h') => write!(out, "{}", &month_name[..3]),
            Some('d') => write!(out, "{day:02}"),
            Some('e') => write!(out, "{day:2}"),
            Some('j') => write!(out, "{:03}", day_of_year + 1),
            Some('A') => write!(out, "{day_name}"),
            Some('a') => write!(out, "{}", &day_name[..3]),
            Some('H') => write!(out, "{hour:02}"),
            Some('I') => write!(out, "{hour12:02}"),
            Some('M') => write!(out, "{minute:02}"),
            Some('S') => write!(out, "{second:02}"),
            Some('p') => write!(out, "{}", if hour < 12 { "AM" } else { "PM" }),
            Some('F') => write!(out, "{year}-{:02}-{day:02}", month + 1),
            Some('T') => write!(out, "{hour:02}:{minute:02}:{second:02}"),
            Some('%') => write!(out, "%"),
            Some(other) => write!(out, "%{other}"),
            None => write!(out, "%"),
        };
    }
    out
}

/// Year, day of the year from 0, month from 0 and day of the month from 1, of days since 1970-01-01.
fn date(mut days: u64) -> (u64, u64, usize, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    // 400 years are 146,097 days.
    let mut year = 1970 + days / 146_097 * 400;
    days %= 146_097;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let day_of_year = days;
    let months = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= months[month] {
        days -= months[month];
        month += 1;
    }
    (year, day_of_year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_as_python_writes_them() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let format = "%A %a %d %e %B %b %Y-%m %y %j %H:%M:%S %I%p %% %Q %";
        // Python: datetime.fromtimestamp(…, timezone.utc).strftime(format)
        assert_eq!(strftime(format, at(0)), "Thursday Thu 01  1 January Jan 1970-01 70 001 00:00:00 12AM % %Q %");
        assert_eq!(
            strftime(format, at(1_709_210_096)),
            "Thursday Thu 29 29 February Feb 2024-02 24 060 12:34:56 12PM % %Q %"
        );
        assert_eq!(strftime("%F %T", at(4_102_444_799)), "2099-12-31 23:59:59");
        assert_eq!(strftime("%d %b %Y", at(951_782_400)), "29 Feb 2000");
    }

    #[test]
    fn floats_as_python_writes_them() {
        for (number, text) in [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e16, "1e+16"),
            (1.5e-7, "1.5e-07"),
            (123456789.5, "123456789.5"),
            (-2e300, "-2e+300"),
        ] {
            assert_eq!(float(&Value::from(number)), text);
        }
    }

    #[test]
    fn generation_tags_keep_their_whitespace_control_and_lines() {
        assert_eq!(
            without_generation_tags(
                "a\n{%- generation -%}\nb{% endgeneration %}{% if x %}generation{% endif %}{% open"
            ),
            "a\n{%- if true -%}\nb{% endif %}{% if x %}generation{% endif %}{% open"
        );
    }
}
