//! Good traces read as what they say; every bad line is named.
use minisgl_config::LONGEST;
use proptest::prelude::*;

use super::*;

mod formats;

const QWEN: &str = r#"{"chat_id": 3, "parent_chat_id": -1, "timestamp": 1.5, "input_length": 33, "output_length": 7, "type": "text", "turn": 1, "hash_ids": [1, 2, 18446744073709551615]}"#;
const MOONCAKE: &str = r#"{"timestamp": 2500, "input_length": 600, "output_length": 5, "hash_ids": [4, 5]}"#;

fn parse(text: &str) -> Result<Trace, String> {
    read("t.jsonl", text.as_bytes(), None).map_err(|error| error.to_string())
}

#[test]
fn formats_are_told_apart_and_units_are_right() {
    let qwen = parse(QWEN).unwrap();
    let expected = TraceRequest {
        hash_ids: vec![1, 2, u64::MAX],
        session: Some(Turn { parent: None, number: 1, delay_s: None }),
        ..TraceRequest::of_lengths(1.5, 33, 7)
    };
    assert_eq!((qwen.format, qwen.block_size, qwen.timed), (TraceFormat::QwenBailian, Some(16), true));
    assert_eq!(qwen.requests, [expected]);
    let mooncake = parse(MOONCAKE).unwrap();
    let expected = TraceRequest { hash_ids: vec![4, 5], ..TraceRequest::of_lengths(2.5, 600, 5) };
    assert_eq!((mooncake.format, mooncake.block_size), (TraceFormat::Mooncake, Some(512)));
    assert_eq!(mooncake.requests, [expected]);
}

#[test]
fn the_hash_is_the_whole_files_with_a_limit_too() {
    let text = format!("{QWEN}\n{QWEN}\nnot looked at");
    let expected: [u8; 32] = <sha2::Sha256 as sha2::Digest>::digest(text.as_bytes()).into();
    let trace = read("t", text.as_bytes(), Some(1)).unwrap();
    assert_eq!((trace.requests.len(), trace.sha256), (1, expected));
    assert!(trace.sha256_hex().len() == 64 && trace.sha256_hex().starts_with(&format!("{:02x}", expected[0])));
}

#[test]
fn parents_are_places_in_the_sorted_trace_and_come_earlier() {
    let line = |chat: u32, parent: i32, t: f64, turn: u32| {
        QWEN.replace(": 3,", &format!(": {chat},"))
            .replace("-1", &parent.to_string())
            .replace("1.5", &t.to_string())
            .replace("\"turn\": 1", &format!("\"turn\": {turn}"))
    };
    // A child before its parent in the file; one whose parent is not there; one that comes before its parent; its own.
    let text = [line(7, 2, 9.0, 2), line(2, -1, 3.0, 1), line(8, 7, 9.5, 3), line(9, 99, 1.0, 4), line(4, 8, 2.0, 4)];
    let own = line(5, 5, 10.0, 1);
    let trace = parse(&format!("{}\n{own}", text.join("\n"))).unwrap();
    let turns: Vec<_> = trace.requests.iter().map(|r| (r.timestamp_s, r.session.unwrap().parent)).collect();
    assert_eq!(turns, [(1.0, None), (2.0, None), (3.0, None), (9.0, Some(2)), (9.5, Some(3)), (10.0, None)]);
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
    let inputs: Vec<usize> = parse(&text).unwrap().requests.iter().map(|r| r.input_length.unwrap()).collect();
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
        let (input, output) = (request.input_length.unwrap(), request.output_length.unwrap());
        assert!((16..=160).contains(&input) && (8..=48).contains(&output));
        assert_eq!(request.hash_ids.len(), input.div_ceil(16));
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
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "no request in it"),
        ("TIMESTAMP,GeneratedTokens\n", "t.jsonl:1: the header lacks [\"ContextTokens\"]"),
        ("[1]", "t.jsonl:1: a number where a JSON object"),
        ("[]", "no request in it"),
        ("{}", "this object has none"),
        ("{\"x\": 1}", "this object has `x`; the formats that can be replayed are Qwen-Bailian (JSONL with `chat_id`"),
        ("\u{1b}[2J", "neither JSON nor a header that is known"),
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
    let error = read("t", b"{".chain(std::io::repeat(b'x')), None).unwrap_err().to_string();
    assert!(error.contains("t:1: the line is longer than"), "{error}");
    let deep = format!("{{\"hash_ids\": {}", "[".repeat(100_000));
    assert!(parse(&deep).unwrap_err().contains("t.jsonl:1"));
}

/// What holds of every trace that was read.
fn check(trace: &Trace) -> Result<(), TestCaseError> {
    prop_assert!(!trace.requests.is_empty());
    let mut before = 0.0;
    for (index, request) in trace.requests.iter().enumerate() {
        prop_assert!((0.0..=LATEST_S).contains(&request.timestamp_s) && request.timestamp_s >= before);
        before = request.timestamp_s;
        prop_assert!(trace.timed || before == 0.0);
        prop_assert!(request.input_length <= Some(LONGEST) && request.output_length <= Some(LONGEST));
        prop_assert!(request.hash_ids.is_empty() || trace.block_size.is_some());
        prop_assert!(request.input_length.is_some() || request.prompt != TracePrompt::Lengths);
        prop_assert!(request.session.and_then(|turn| turn.parent).is_none_or(|parent| parent < index));
    }
    Ok(())
}

proptest! {
    /// Whatever a byte becomes: a trace or a named record, never a panic; and what is read is within bounds.
    #[test]
    fn mutated_files_are_read_or_named(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        sample in prop::sample::select(formats::samples()),
        packed: bool,
    ) {
        let mut bytes = sample.into_bytes();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if packed {
            bytes = formats::gzip(&bytes);
        }
        match read("t.jsonl", bytes.as_slice(), None) {
            Ok(trace) => check(&trace)?,
            Err(error) => prop_assert!(error.to_string().starts_with("t.jsonl:"), "{}", error),
        }
    }

    /// A packed file that is damaged is an error that names the file, or reads.
    #[test]
    fn damaged_packing_is_named(at in any::<prop::sample::Index>(), byte: u8, sample in prop::sample::select(formats::samples())) {
        let mut bytes = formats::gzip(sample.as_bytes());
        let at = at.index(bytes.len());
        bytes[at] = byte;
        match read("t.jsonl", bytes.as_slice(), None) {
            Ok(trace) => check(&trace)?,
            Err(error) => prop_assert!(error.to_string().contains("t.jsonl"), "{}", error),
        }
    }

    /// The same for bytes that were never a trace, some of which start like a packed file.
    #[test]
    fn noise_is_named(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Err(error) = read("t.jsonl", bytes.as_slice(), None) {
            prop_assert!(error.to_string().contains("t.jsonl"), "{}", error);
        }
    }
}
