//! The same chats from every form; what is left out; what is said of a bad row.
use std::io::Write;

use proptest::prelude::*;

use super::*;

const JSONL: &str = include_str!("fixtures/chats.jsonl");
const SNAPPY: &[u8] = include_bytes!("fixtures/chats.snappy.parquet");
const ZSTD: &[u8] = include_bytes!("fixtures/chats.zstd.parquet");

fn read_bytes(bytes: &[u8], count: usize) -> Result<Dataset, String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let path = file.path().display().to_string();
    let source = DatasetSource::File(file.path().to_owned());
    first_questions(&source, count, false).map_err(|error| error.to_string().replace(&path, "F"))
}

#[test]
fn every_form_gives_the_same_first_questions() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(JSONL.as_bytes()).unwrap();
    let zstd = zstd::encode_all(JSONL.as_bytes(), 1).unwrap();
    for bytes in [JSONL.as_bytes(), SNAPPY, ZSTD, &gzip.finish().unwrap(), &zstd] {
        let found = read_bytes(bytes, 256).unwrap();
        let expected = [
            "What is a page table?",
            "什么是前缀缓存？",
            "Write a haiku about radix trees.\nIn English, please.",
            "How do I measure time to first token?",
        ];
        assert_eq!((found.prompts.as_slice(), found.rows), (expected.map(str::to_owned).as_slice(), 10));
        assert_eq!(found.skipped, Skipped { language: 2, redacted: 1, toxic: 1, empty: 2 });
        let two = read_bytes(bytes, 2).unwrap();
        assert_eq!((two.prompts.len(), two.rows), (2, 3), "rows beyond those needed are not read");
    }
}

#[test]
fn a_row_may_lack_what_only_some_have() {
    let found = read_bytes(br#"[{"conversation": [{"role": "user", "content": "a", "language": "English"}]},
        {"conversation": [{"role": "user", "content": "b", "language": "Latin"}]},
        {"conversation": [{"role": "user", "content": "c", "redacted": true}]}, {"conversation": [], "language": null}]"#, 9);
    let found = found.unwrap();
    assert_eq!(
        (found.prompts, found.skipped),
        (vec!["a".to_owned()], Skipped { language: 1, redacted: 1, toxic: 0, empty: 1 })
    );
}

#[test]
fn a_bad_row_is_named() {
    let first = JSONL.lines().next().unwrap();
    for (line, said) in [
        (first.replace("\"conversation\"", "\"chat\""), "F: line 2: field `conversation` is missing"),
        (
            first.replace("\"role\"", "\"who\""),
            "F: line 2: field `conversation`: its element 0: field `role` is missing",
        ),
        (
            first.replace("\"turn\": 2, \"language\": \"English\"", "\"language\": 5"),
            "F: line 2: field `language`: 5 where a string",
        ),
        (
            first.replace("\"toxic\": false, \"redacted\": false}", "\"toxic\": \"no\"}"),
            "F: line 2: field `toxic`: \"no\" where true or false",
        ),
        ("{".to_owned(), "F: line 2: not JSON"),
    ] {
        let error = read_bytes(format!("{first}\n{line}\n").as_bytes(), 9).unwrap_err();
        assert!(error.starts_with(said), "{error}");
    }
    let none = read_bytes(JSONL.lines().nth(1).unwrap().as_bytes(), 9).unwrap_err();
    assert!(none.contains("no first question in English or Chinese in its 1 rows"), "{none}");
    assert!(read_bytes(b"", 9).unwrap_err().contains("in its 0 rows"));
    let cut = read_bytes(&SNAPPY[..SNAPPY.len() / 2], 9).unwrap_err();
    assert!(cut.starts_with("cannot read the dataset F: "), "{cut}");
    let missing = first_questions(&DatasetSource::named("/nonexistent/x"), 9, false).unwrap_err().to_string();
    assert!(missing.contains("cannot read the dataset /nonexistent/x"), "{missing}");
    assert_eq!(DatasetSource::named("wildchat"), DatasetSource::WildChat);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// A damaged parquet file is read or named.
    #[test]
    fn damaged_parquet_is_named(at in any::<prop::sample::Index>(), byte: u8, zstd: bool) {
        let mut bytes = if zstd { ZSTD } else { SNAPPY }.to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Err(error) = read_bytes(&bytes, 256) {
            prop_assert!(error.contains('F'), "{}", error);
        }
    }
}
