//! Whatever bytes a server streams: the same events however they are cut, and no panic in reading what they hold.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code)]
#[path = "../loadgen/client/chunk.rs"]
mod chunk;
#[path = "../loadgen/client/scan.rs"]
mod scan;
#[path = "../loadgen/client/sse.rs"]
mod sse;

/// What `chunk.rs` fills, as `loadgen/records.rs` has it: that file itself would bring histograms. Where the two differ,
/// this does not build.
mod records {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Finish {
        Stop,
        Length,
        ToolCalls,
        Other,
    }

    #[allow(dead_code)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Usage {
        pub(crate) prompt_tokens: u64,
        pub(crate) completion_tokens: u64,
        pub(crate) cached_tokens: Option<u64>,
        pub(crate) reasoning_tokens: Option<u64>,
    }
}

use chunk::{Chunk, Kind, TokenDelta};
use sse::{SseParser, TooLong};

/// Name and data of each event, and whether the stream ends within one.
type Read = Result<(Vec<(Vec<u8>, Vec<u8>)>, bool), TooLong>;

fuzz_target!(|bytes: &[u8]| {
    // The first byte says how the rest is cut.
    let Some((&cut, stream)) = bytes.split_first() else { return };
    let whole = read([stream].into_iter());
    assert_eq!(read(stream.chunks(usize::from(cut) + 1)), whole);
    let mut form = scan::Form::default();
    for (_, data) in whole.iter().flat_map(|(events, _)| events) {
        // Either is fine; a panic is not.
        let chunk = Chunk::parse(data);
        // Where the quick scan answers, or the form of the events before, the parser says the same.
        if let Some(text) = form.plain_text(data) {
            assert_eq!(Chunk::escaped_content(data), Some(text));
            assert_eq!(chunk.ok(), Some(Chunk { token: TokenDelta::Text, kind: Kind::Content, ..Chunk::default() }));
        }
    }
});

fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Read {
    let (mut parser, mut events) = (SseParser::default(), Vec::new());
    for piece in pieces {
        parser.push(piece, |event| {
            events.push((event.name.to_vec(), event.data.to_vec()));
            Ok::<_, TooLong>(())
        })?;
    }
    Ok((events, parser.is_inside_event()))
}
