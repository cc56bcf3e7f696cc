//! Each format's fields, units and links; packed files; arrays; and what is said of a bad record.
use std::io::Write;

use super::super::*;
use super::parse;

const BURST: &str = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n\
    45.5,7,1.2,ChatGPT,100,20,120,Conversation log\n\
    40,8,0.1,GPT-4,10,0,10,API log\n\
    50,7,2,ChatGPT,130,5,135,Conversation log\n\
    51,,2,ChatGPT,1,5,6,Conversation log\n";

const AZURE: &str = "TIMESTAMP,ContextTokens,GeneratedTokens\n\
    2023-11-16 18:15:46.6805900,374,44\n\
    2023-11-16 18:15:46.6805901,396,109\n\
    2023-11-16 18:15:47,1,2\n";

/// A small file of each format.
pub(super) fn samples() -> Vec<String> {
    let qwen = format!("{0}\n{0}\n", super::QWEN);
    let mooncake = format!("{0}\n{0}\n", super::MOONCAKE);
    let multi = r#"{"session_id": "s", "turns": [{"text": "a", "timestamp": 1000}, {"text": "b", "delay": 500}]}"#;
    let single = r#"{"text": "one", "timestamp": 1500, "output_length": 4, "session_id": "s"}"#;
    let trace = r#"{"messages": [{"role": "user", "content": "S"}], "output_length": 4, "timestamp": 10}"#;
    [&qwen, &mooncake, BURST, AZURE, SHAREGPT, multi, single, trace].map(str::to_owned).to_vec()
}

fn error(text: &str) -> String {
    parse(text).unwrap_err()
}

/// Time, lengths and parent of each request.
type Row = (f64, Option<usize>, Option<usize>, Option<usize>);

fn rows(trace: &Trace) -> Vec<Row> {
    let parent = |request: &TraceRequest| request.session.and_then(|turn| turn.parent);
    trace.requests.iter().map(|r| (r.timestamp_s, r.input_length, r.output_length, parent(r))).collect()
}

fn texts(trace: &Trace) -> Vec<String> {
    let text = |request: &TraceRequest| match &request.prompt {
        TracePrompt::Text(text) => text.clone(),
        TracePrompt::Messages(chat) => {
            let said = |m: &Message| format!("{}:{}", m.role, m.content);
            format!("{} -> {:?}", chat.prompt().iter().map(said).collect::<Vec<_>>().join("|"), chat.answer())
        }
        TracePrompt::Lengths => String::new(),
    };
    trace.requests.iter().map(text).collect()
}

#[test]
fn burst_gpt_links_sessions_and_flags_failures() {
    let trace = parse(BURST).unwrap();
    assert_eq!((trace.format, trace.block_size, trace.timed), (TraceFormat::BurstGpt, None, true));
    let expected = [
        (40.0, Some(10), Some(0), None),
        (45.5, Some(100), Some(20), None),
        (50.0, Some(130), Some(5), Some(1)),
        (51.0, Some(1), Some(5), None),
    ];
    assert_eq!(rows(&trace), expected);
    assert_eq!(trace.requests.iter().map(|r| r.failed).collect::<Vec<_>>(), [true, false, false, false]);
    assert_eq!(trace.requests[2].session.unwrap().number, 2);
    assert!(trace.requests[3].session.is_none());
    // The older header has no sessions, and its order is free.
    let old = "Model,Timestamp,Response tokens,Request tokens\r\nGPT-4,5,2,9\r\n";
    assert_eq!(rows(&parse(old).unwrap()), [(5.0, Some(9), Some(2), None)]);
}

#[test]
fn azure_dates_keep_seven_decimals_and_offsets() {
    let trace = parse(AZURE).unwrap();
    assert_eq!(trace.format, TraceFormat::Azure);
    let times: Vec<f64> = trace.requests.iter().map(|r| r.timestamp_s).collect();
    assert_eq!(times, [0.0, 1e-7, 0.31941]);
    let offsets = "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 02:00:00.5+02:00,1,1\n2024-05-10 00:00:01+00:00,1,1\n\
        2024-05-10T00:00:02Z,1,1\n2024-05-10 00:00:00,1,1\n";
    let times: Vec<f64> = parse(offsets).unwrap().requests.iter().map(|r| r.timestamp_s).collect();
    assert_eq!(times, [0.0, 0.5, 1.0, 2.0]);
}

#[test]
fn a_bad_cell_is_named() {
    for (text, good, bad, field) in [
        (BURST, "45.5", "-1", "Timestamp"),
        (BURST, "45.5", "", "Timestamp"),
        (BURST, "45.5", "NaN", "Timestamp"),
        (BURST, "45.5", "1e11", "Timestamp"),
        (BURST, "100", "1e2", "Request tokens"),
        (BURST, ",20,120", ",-20,120", "Response tokens"),
        (BURST, ",20,120", ",+20,120", "Response tokens"),
        (AZURE, "374", "16777217", "ContextTokens"),
        (AZURE, "374", "\u{1b}", "ContextTokens"),
        (AZURE, ",44", ",4.4", "GeneratedTokens"),
        (AZURE, "2023-11-16 18:15:46.6805900", "2023-13-16 18:15:46", "TIMESTAMP"),
        (AZURE, "2023-11-16 18:15:46.6805900", "1700158546", "TIMESTAMP"),
        (AZURE, "2023-11-16 18:15:46.6805900", "1969-12-31 23:59:59", "TIMESTAMP"),
    ] {
        let message = error(&text.replacen(good, bad, 1));
        assert!(message.starts_with(&format!("t.jsonl:2: field `{field}`: ")), "{bad}: {message}");
        assert!(!message.contains('\u{1b}'), "{message:?}");
    }
    let short = error(&AZURE.replacen("374,44", "374", 1));
    assert!(short.contains("t.jsonl:2: 2 fields where the header has 3: `GeneratedTokens` is missing"), "{short}");
    let quote = error(&AZURE.replacen("374", "\"374", 1));
    assert!(quote.starts_with("t.jsonl:2: "), "{quote}");
    let latin = read("t", &b"TIMESTAMP,ContextTokens,GeneratedTokens\n\xff,1,1\n"[..], None).unwrap_err().to_string();
    assert!(latin.contains("t:2: not UTF-8"), "{latin}");
}

const SHAREGPT: &str = r#"[
  {"id": "a", "conversations": [
    {"from": "system", "value": "S"}, {"from": "human", "value": "[1], \"x\" ]}"},
    {"from": "gpt", "value": "A1"},
    {"from": "human", "value": "Q2"}, {"from": "gpt", "value": "A2"}, {"from": "human", "value": "Q3"}]},
  {"id": "b", "conversations": []},
  {"id": "c", "conversations": [{"from": "gpt", "value": "cut"}, {"from": "user", "value": "Q"}, {"from": "chatgpt", "value": "A"}]}
]
"#;

#[test]
fn sharegpt_turns_are_chained_and_carry_messages() {
    let trace = parse(SHAREGPT).unwrap();
    assert_eq!((trace.format, trace.timed, trace.skipped), (TraceFormat::ShareGpt, false, 1));
    let none = (0.0, None, None, None);
    assert_eq!(rows(&trace), [none, (0.0, None, None, Some(0)), none]);
    assert_eq!(
        texts(&trace),
        [
            "system:S|user:[1], \"x\" ]} -> Some(\"A1\")",
            "system:S|user:[1], \"x\" ]}|assistant:A1|user:Q2 -> Some(\"A2\")",
            "user:Q -> Some(\"A\")"
        ]
    );
    // One chat a line reads as well; a limit cuts within a chat.
    let lines = SHAREGPT.trim().trim_matches(['[', ']']).replace('\n', "").replace("},  {\"id", "}\n{\"id");
    assert_eq!(parse(&lines).unwrap().requests, trace.requests);
    assert_eq!(read("t", SHAREGPT.as_bytes(), Some(1)).unwrap().requests, trace.requests[..1]);
}

#[test]
fn a_broken_array_is_named() {
    for (text, said) in [
        (
            SHAREGPT.replace("\"Q2\"", "2"),
            "t.jsonl:2: field `conversations`: its element 3: field `value`: 2 where a string",
        ),
        (SHAREGPT.replace("chatgpt", "alien"), "t.jsonl:7: field `conversations`: its element 2: field `from`"),
        (SHAREGPT.replace("\"Q2\"", "Q2"), "t.jsonl:2: field `value`: not JSON at column 32, 3 lines below"),
        (SHAREGPT.replace("\n]", ""), "t.jsonl:7: the element that begins here does not end"),
        (SHAREGPT.replace("]}\n]", "]}\n] x"), "t.jsonl:8: text behind the array's end"),
        (SHAREGPT.replace("]}\n]", "]},\n]"), "t.jsonl:8: a comma before the array's end"),
        (SHAREGPT[..200].to_owned(), "t.jsonl:2: the element that begins here does not end"),
        ("[{\"id\": 1}{}]".to_owned(), "t.jsonl:1: "),
        ("[{\"conversations\": []}]".to_owned(), "in none of its 1 chats was a question answered"),
        ("[,]".to_owned(), "t.jsonl:1: not JSON"),
        ("[".to_owned(), "t.jsonl:1: the array does not end"),
    ] {
        let message = error(&text);
        assert!(message.contains(said), "{message}\n{said}");
    }
    let endless = read("t", b"[\"".chain(std::io::repeat(b'x')), None).unwrap_err().to_string();
    assert!(endless.contains("t:1: the element is longer than"), "{endless}");
}

#[test]
fn aiperf_single_turn_and_its_sessions() {
    let text = r#"{"text": "one", "timestamp": 1500, "output_length": 4, "session_id": "s"}
        {"text": "two", "delay": 250, "session_id": "s"}
        {"text": "other", "timestamp": 100}"#;
    let trace = parse(text).unwrap();
    assert_eq!((trace.format, trace.timed, trace.block_size), (TraceFormat::AiperfSingleTurn, true, None));
    assert_eq!(rows(&trace), [(0.1, None, None, None), (1.5, None, Some(4), None), (1.75, None, None, Some(1))]);
    assert_eq!(trace.requests[2].session, Some(Turn { parent: Some(1), number: 2, delay_s: Some(0.25) }));
    assert_eq!(texts(&trace), ["other", "one", "two"]);
    assert!(!parse("{\"text\": \"no time\"}").unwrap().timed);
    for (line, said) in [
        (r#"{"text": "x"}"#, "t.jsonl:2: field `timestamp` is missing: other lines have it"),
        (r#"{"text": 5, "timestamp": 1}"#, "t.jsonl:2: field `text`: 5 where a string"),
        (r#"{"texts": ["x"], "timestamp": 1}"#, "t.jsonl:2: field `texts`: several texts"),
        (r#"{"text": "x", "image": "y"}"#, "t.jsonl:2: field `image`: only texts"),
        (r#"{"text": "x", "timestamp": -1}"#, "t.jsonl:2: field `timestamp`: -1 where a number of milliseconds"),
        (r#"{"text": "x", "delay": "1"}"#, "t.jsonl:2: field `delay`"),
        (r#"{"text": "x", "session_id": []}"#, "t.jsonl:2: field `session_id`: an array where a string"),
        (r#"{"text": "x", "role": "tool"}"#, "t.jsonl:2: field `role`"),
    ] {
        let message = error(&format!("{{\"text\": \"a\", \"timestamp\": 1}}\n{line}"));
        assert!(message.starts_with(said), "{message}");
    }
}

#[test]
fn aiperf_multi_turn_chats() {
    let text = r#"{"session_id": "s", "turns": [{"text": "a", "timestamp": 1000}, {"text": "b", "delay": 500, "output_length": 9}, {"text": "c"}]}
        {"turns": [{"text": "d", "timestamp": 0}]}"#;
    let trace = parse(text).unwrap();
    assert_eq!(trace.format, TraceFormat::AiperfMultiTurn);
    let expected =
        [(0.0, None, None, None), (1.0, None, None, None), (1.5, None, Some(9), Some(1)), (1.5, None, None, Some(2))];
    assert_eq!((rows(&trace), texts(&trace).concat()), (expected.to_vec(), "dabc".to_owned()));
    for (line, said) in [
        (r#"{"turns": []}"#, "t.jsonl:1: field `turns`: at least one turn"),
        (
            r#"{"turns": [{"text": "a"}, {"txt": "b"}]}"#,
            "t.jsonl:1: field `turns`: its element 1: field `text` is missing",
        ),
        (r#"{"turns": ["a"]}"#, "t.jsonl:1: field `turns`: its element 0 is a string where"),
    ] {
        assert!(error(line).starts_with(said), "{}", error(line));
    }
}

#[test]
fn aiperf_mooncake_trace_with_texts_messages_and_ids() {
    let text = r#"{"text_input": "hello", "output_length": 4, "timestamp": 10}
        {"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": [{"type": "text", "text": "U"}]}, {"role": "assistant", "content": null, "tool_calls": []}], "session_id": 5, "timestamp": 20}
        {"input_length": 700, "hash_ids": [1, 2], "session_id": 5, "delay": 1}
        {"input_length": 3, "timestamp": 30}"#;
    let trace = parse(text).unwrap();
    assert_eq!((trace.format, trace.block_size), (TraceFormat::AiperfMooncake, Some(512)));
    let expected = [
        (0.01, None, Some(4), None),
        (0.02, None, None, None),
        (0.021, Some(700), None, Some(1)),
        (0.03, Some(3), None, None),
    ];
    assert_eq!(rows(&trace), expected);
    assert_eq!(texts(&trace)[..2], ["hello", "system:S|user:U|assistant: -> None"]);
    assert_eq!(trace.requests[2].hash_ids, [1, 2]);
    for (line, said) in [
        (r#"{"text_input": "a", "messages": []}"#, "t.jsonl:1: field `messages`: `text_input` is there too"),
        (r#"{"messages": []}"#, "t.jsonl:1: field `messages`: at least one"),
        (r#"{"messages": [{"content": "x"}]}"#, "t.jsonl:1: field `messages`: its element 0: field `role` is missing"),
        (
            r#"{"messages": [{"role": "user", "content": [{"type": "image"}]}]}"#,
            "t.jsonl:1: field `messages`: its element 0: field `content`: a part",
        ),
        (r#"{"session_id": "s", "hash_ids": [1]}"#, "t.jsonl:1: field `input_length` is missing"),
        (
            r#"{"input_length": 5, "delay": 5, "hash_ids": [18446744073709551616]}"#,
            "t.jsonl:1: field `hash_ids`: its element 0",
        ),
    ] {
        assert!(error(line).starts_with(said), "{}", error(line));
    }
}

pub(super) fn gzip(text: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(text).unwrap();
    packer.finish().unwrap()
}

#[test]
fn packed_files_read_as_they_are() {
    let plain = parse(AZURE).unwrap();
    let zstd = |text: &str| zstd::encode_all(text.as_bytes(), 1).unwrap();
    let (first, rest) = AZURE.split_at(60);
    let members = [gzip(first.as_bytes()), gzip(rest.as_bytes())].concat();
    let frames = [zstd(first), zstd(rest)].concat();
    let marked = gzip(format!("\u{feff}{AZURE}").as_bytes());
    for packed in [gzip(AZURE.as_bytes()), zstd(AZURE), members, frames, marked] {
        let trace = read("t.jsonl", packed.as_slice(), None).unwrap();
        assert_eq!((&trace.requests, trace.format), (&plain.requests, plain.format));
        let hash: [u8; 32] = <sha2::Sha256 as sha2::Digest>::digest(&packed).into();
        assert_eq!(trace.sha256, hash, "of the file as it is stored");
        assert_eq!(read("t", packed.as_slice(), Some(1)).unwrap().sha256, hash);
        let cut = read("t.jsonl", &packed[..packed.len() - 9], None).unwrap_err().to_string();
        assert!(cut.starts_with("cannot read the trace t.jsonl: "), "{cut}");
    }
}

#[test]
fn a_bomb_costs_no_memory() {
    // A gigabyte of blanks in a megabyte, then nothing: it is streamed; a line of it is too long.
    let blanks = gzip(&vec![b'\n'; 64 << 20]);
    assert!(read("t", blanks.as_slice(), None).unwrap_err().to_string().contains("no request in it"));
    let line = zstd::encode_all(std::io::repeat(b'{').take(64 << 20), 1).unwrap();
    assert!(read("t", line.as_slice(), None).unwrap_err().to_string().contains("t:1: the line is longer than"));
}
