//! Good traces read as what they say; every bad line is named.
use proptest::prelude::*;

use super::*;

const QWEN: &str = r#"{"chat_id": 3, "parent_chat_id": -1, "timestamp": 1.5, "input_length": 33, "output_length": 7, "type": "text", "turn": 1, "hash_ids": [1, 2, 18446744073709551615]}"#;
const MOONCAKE: &str = r#"{"timestamp": 2500, "input_length": 600, "output_length": 5, "hash_ids": [4, 5]}"#;

fn parse(text: &str) -> Result<Trace, String> {
    read("t.jsonl", text.as_bytes(), None).map_err(|error| error.to_string())
}

fn request(timestamp_s: f64, input_length: usize, output_length: usize) -> TraceRequest {
    TraceRequest { timestamp_s, input_length, output_length }
}

#[test]
fn formats_are_told_apart_and_units_are_right() {
    let qwen = parse(QWEN).unwrap();
    assert_eq!((qwen.format, qwen.requests), (TraceFormat::QwenBailian, vec![request(1.5, 33, 7)]));
    let mooncake = parse(MOONCAKE).unwrap();
    assert_eq!((mooncake.format, mooncake.requests), (TraceFormat::Mooncake, vec![request(2.5, 600, 5)]));
}

#[test]
fn byte_order_mark_blank_lines_and_both_line_ends() {
    let text = format!("\u{feff}{MOONCAKE}\r\n\r\n  \n{MOONCAKE}");
    assert_eq!(parse(&text).unwrap().requests.len(), 2);
}

#[test]
fn requests_are_sorted_by_time_and_equals_keep_their_order() {
    let line = |t: u32, input: u32| MOONCAKE.replace("2500", &t.to_string()).replace("600", &input.to_string());
    let text = [line(9000, 1), line(1000, 2), line(9000, 3), line(0, 4)].join("\n");
    let inputs: Vec<usize> = parse(&text).unwrap().requests.iter().map(|r| r.input_length).collect();
    assert_eq!(inputs, [4, 2, 1, 3]);
}

#[test]
fn a_limit_looks_no_further() {
    let text = format!("{MOONCAKE}\n{MOONCAKE}\nnot looked at");
    assert_eq!(read("t", text.as_bytes(), Some(2)).unwrap().requests.len(), 2);
    assert!(read("t", text.as_bytes(), Some(3)).is_err());
}

#[test]
fn the_shipped_trace_is_what_its_generator_promises() {
    let text = minisgl_config::loadgen::SHIPPED_TRACE;
    let trace = parse(text).unwrap();
    assert_eq!((trace.format, trace.requests.len()), (TraceFormat::QwenBailian, 32));
    assert_eq!((trace.requests[0].timestamp_s, trace.requests[31].timestamp_s), (0.0, 20.0));
    for request in &trace.requests {
        assert!((16..=160).contains(&request.input_length) && (8..=48).contains(&request.output_length));
    }
}

#[test]
fn every_bad_value_is_named_by_file_line_and_field() {
    for (field, good, bads) in [
        ("chat_id", r#""chat_id": 3"#, &["-1", "1.5", "null", "\"3\"", "[]"][..]),
        ("parent_chat_id", r#""parent_chat_id": -1"#, &["-2", "0.5", "{}"]),
        ("timestamp", r#""timestamp": 1.5"#, &["-0.1", "1e11", "\"1\"", "null", "NaN", "Infinity", "1e999", "-", ""]),
        ("input_length", r#""input_length": 33"#, &["-1", "33.0", "16777217", "99999999999999999999", "true", "NaN"]),
        ("output_length", r#""output_length": 7"#, &["-7", "7.5", "18446744073709551615", "1e5"]),
        ("type", r#""type": "text""#, &["1", "null"]),
        ("turn", r#""turn": 1"#, &["-1", "\"1\""]),
        ("hash_ids", r#""hash_ids": [1, 2, 18446744073709551615]"#, &["7", "[1,-2]", "[1.5]", "[null]", "{}", "[1"]),
    ] {
        for bad in bads {
            let line = QWEN.replace(good, &format!("\"{field}\": {bad}"));
            assert_ne!(line, QWEN);
            let error = parse(&format!("{QWEN}\n{line}\n")).unwrap_err();
            assert!(error.starts_with("t.jsonl:2: ") && error.contains(&format!("`{field}`")), "{bad}: {error}");
        }
        let without = QWEN.replace(good, "\"other\": 0");
        let error = parse(&format!("{QWEN}\n\n{without}")).unwrap_err();
        assert!(error.starts_with(&format!("t.jsonl:3: field `{field}` is missing")), "{error}");
    }
}

#[test]
fn what_is_no_trace_says_what_would_be() {
    for (text, said) in [
        ("", "no request in it"),
        ("\n\n", "no request in it"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "t.jsonl:1: not JSON at column 1"),
        ("[1]", "t.jsonl:1: an array where a JSON object"),
        ("{}", "this one has none"),
        (r#"{"text_input": "x"}"#, "Qwen-Bailian line has `chat_id`"),
        ("\u{1b}[2J", "not JSON"),
        ("{\"a\u{7}b\": 1}", "not JSON"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(said), "{text:?}: {error}");
        assert!(!error.contains('\u{1b}'), "{error:?}");
    }
    let error = read_file(Path::new("/nonexistent/x.jsonl"), None).unwrap_err().to_string();
    assert!(error.contains("cannot read the trace /nonexistent/x.jsonl"), "{error}");
    assert!(read_file(Path::new("/"), None).unwrap_err().to_string().contains("directory"));
}

#[test]
fn a_line_without_end_is_refused_within_bounds() {
    let endless = std::io::BufReader::new(std::io::repeat(b'['));
    let error = read("t", endless, None).unwrap_err().to_string();
    assert!(error.contains("t:1: the line is longer than"), "{error}");
    let deep = format!("{{\"hash_ids\": {}", "[".repeat(100_000));
    assert!(parse(&deep).unwrap_err().contains("t.jsonl:1"));
}

proptest! {
    /// Whatever a byte becomes: a trace or a named line, never a panic; and what is read is within bounds.
    #[test]
    fn mutated_lines_are_read_or_named(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), mooncake: bool) {
        let mut bytes = format!("{0}\n{0}\n", if mooncake { MOONCAKE } else { QWEN }).into_bytes();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        match read("t.jsonl", bytes.as_slice(), None) {
            Ok(trace) => for request in trace.requests {
                prop_assert!((0.0..=LATEST_S).contains(&request.timestamp_s));
                prop_assert!(request.input_length <= minisgl_config::LONGEST && request.output_length <= minisgl_config::LONGEST);
            },
            Err(error) => prop_assert!(error.to_string().starts_with("t.jsonl:"), "{}", error),
        }
    }

    /// The same for bytes that were never a trace.
    #[test]
    fn noise_is_named(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Err(error) = read("t.jsonl", bytes.as_slice(), None) {
            prop_assert!(error.to_string().starts_with("t.jsonl:"), "{}", error);
        }
    }
}
