//! A byte a token, so that a test can count tokens and split characters.
use minisgl_checkpoint::{HfTokenizer, TokenizerSource};
use minisgl_kernels::TokenId;
use minisgl_tokenizer::Tokenizer;
use serde_json::json;

/// Begins a message.
pub const USER: TokenId = 256;
/// Begins the model's reply.
pub const REPLY: TokenId = 257;
/// Ends it.
pub const EOS: TokenId = 258;
/// 256 bytes and three special tokens.
pub const VOCABULARY: usize = 259;

const TEMPLATE: &str = "{% for message in messages %}\
    {% if message.content == 'refuse' %}{{ raise_exception('I will not') }}{% endif %}\
    <|user|>{{ message.content }}{% endfor %}<|reply|>";

/// How byte-level vocabularies write a byte: printable ones as they are, the others from U+0100 on.
fn letter(byte: u8) -> char {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    match byte {
        b if printable(b) => char::from(b),
        b => char::from_u32(256 + (0..b).filter(|&before| !printable(before)).count() as u32).unwrap(),
    }
}

pub fn tokenizer() -> Tokenizer {
    let vocabulary: serde_json::Map<_, _> = (0..=255u8).map(|b| (letter(b).to_string(), json!(b))).collect();
    let special = |id: TokenId, content: &str| {
        json!({
            "id": id, "content": content, "special": true, "normalized": false,
            "single_word": false, "lstrip": false, "rstrip": false,
        })
    };
    let file = json!({
        "version": "1.0",
        "added_tokens": [special(USER, "<|user|>"), special(REPLY, "<|reply|>"), special(EOS, "<|eos|>")],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    });
    let source = HfTokenizer {
        tokenizer_json: file.to_string().into_bytes(),
        tokenizer_config: json!({"eos_token": "<|eos|>"}),
        chat_template: Some(TEMPLATE.into()),
        path: "tokenizer.json".into(),
    };
    Tokenizer::new(TokenizerSource::HuggingFace(source)).expect("the tokenizer is well-formed")
}
