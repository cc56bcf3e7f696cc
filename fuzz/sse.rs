//! Whatever bytes a server streams: the same events however they are cut, and no panic in reading what they hold.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code)]
#[path = "../loadgen/client/chunk.rs"]
mod chunk;
#[allow(dead_code)]
#[path = "../loadgen/client/sse.rs"]
mod sse;

use chunk::Chunk;
use sse::{SseParser, TooLong};

/// Name and data of each event, and whether the stream ends within one.
type Read = Result<(Vec<(Vec<u8>, Vec<u8>)>, bool), TooLong>;

fuzz_target!(|bytes: &[u8]| {
    // The first byte says how the rest is cut.
    let Some((&cut, stream)) = bytes.split_first() else { return };
    let whole = read([stream].into_iter());
    assert_eq!(read(stream.chunks(usize::from(cut) + 1)), whole);
    for (_, data) in whole.iter().flat_map(|(events, _)| events) {
        // Either is fine; a panic is not.
        let _ = Chunk::parse(data);
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
