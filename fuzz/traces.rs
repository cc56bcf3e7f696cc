//! Whatever bytes are given as a trace: requests that keep their promises, or a named error.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code, unused_imports)]
#[path = "../loadgen/traces/mod.rs"]
mod traces;

use traces::{PrefixOptions, Trace, TraceRequest, ideal_hits, read};

fuzz_target!(|bytes: &[u8]| {
    let whole = match read("fuzzed", bytes, None) {
        Ok(trace) => trace,
        Err(error) => {
            assert!(error.to_string().contains("fuzzed"), "an error names the file: {error}");
            return;
        }
    };
    check(&whole);
    let first = read("fuzzed", bytes, Some(1)).expect("the beginning of a good trace is good");
    assert_eq!((first.requests.len(), first.sha256), (1, whole.sha256));
});

fn check(trace: &Trace) {
    let mut before = 0.0;
    for (index, request) in trace.requests.iter().enumerate() {
        let TraceRequest { timestamp_s, session, .. } = request;
        assert!(*timestamp_s >= before && *timestamp_s <= 1e10, "sorted by times within bounds");
        before = *timestamp_s;
        assert!(session.and_then(|turn| turn.parent).is_none_or(|parent| parent < index), "parents come earlier");
        assert!(request.input_length.max(request.output_length) <= Some(minisgl_config::LONGEST));
    }
    for options in [PrefixOptions::default(), PrefixOptions { page_size: 16, scale: 0.3 }] {
        let hits = ideal_hits(trace, options);
        let bounded = hits.cached_tokens.iter().zip(&hits.prompt_tokens).all(|(hit, prompt)| *hit < (*prompt).max(1));
        assert!(bounded && hits.rate().is_none_or(|rate| (0.0..1.0).contains(&rate)));
    }
}
