//! Server-sent events: how a stream's pieces are framed. Every frame ends in a blank line.
use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::Stream;
use serde::Serialize;

/// One event with a JSON payload, which has no line breaks of its own.
pub(crate) fn data(value: &impl Serialize) -> Bytes {
    let mut frame = b"data: ".to_vec();
    serde_json::to_writer(&mut frame, value).expect("chunks become JSON in memory");
    frame.extend_from_slice(b"\n\n");
    frame.into()
}

/// One event with JSON that is already text.
pub(crate) fn json(json: &str) -> Bytes {
    format!("data: {json}\n\n").into()
}

/// One event with plain text: a `data:` line for each of its lines, which a client joins again.
pub(crate) fn text(text: &str) -> Bytes {
    let mut frame = String::with_capacity(text.len() + 16);
    // A lone carriage return would end a line too.
    for line in text.replace("\r\n", "\n").split(['\n', '\r']) {
        frame += "data: ";
        frame += line;
        frame.push('\n');
    }
    frame.push('\n');
    frame.into()
}

/// The last event.
pub(crate) fn done() -> Bytes {
    Bytes::from_static(b"data: [DONE]\n\n")
}

/// A response whose body is these frames, each sent as it comes.
pub(crate) fn response(frames: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    use futures_util::StreamExt;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, Body::from_stream(frames.map(Ok::<_, std::convert::Infallible>))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_text_has_its_own_data_line() {
        assert_eq!(&text("one")[..], b"data: one\n\n");
        assert_eq!(&text("")[..], b"data: \n\n");
        assert_eq!(&text("a\n\nb\r\nc\rd")[..], b"data: a\ndata: \ndata: b\ndata: c\ndata: d\n\n");
        assert_eq!(&data(&"x\ny")[..], b"data: \"x\\ny\"\n\n");
    }
}
