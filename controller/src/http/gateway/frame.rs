//! Server-sent events, as bytes.
//!
//! A chunk of an engine is copied once, between `data: ` and an empty line, and never parsed: what
//! the engine sent is what the client reads.

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;

/// The end of every stream that the engine completed.
pub const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");

/// One event with `payload` as data.
#[must_use]
pub fn data(payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(payload.len() + 8);
    // A line break inside an event would end its line: each line gets its own `data:`.
    for line in payload.split(|byte| matches!(byte, b'\n' | b'\r')).filter(|line| !line.is_empty())
    {
        frame.put_slice(b"data: ");
        frame.put_slice(line);
        frame.put_u8(b'\n');
    }
    frame.put_u8(b'\n');
    frame.freeze()
}

/// The same with the name of the event before it.
#[must_use]
pub fn named(event: &str, payload: &[u8]) -> Bytes {
    let data = data(payload);
    let mut frame = BytesMut::with_capacity(data.len() + event.len() + 8);
    frame.put_slice(b"event: ");
    frame.put_slice(event.as_bytes());
    frame.put_u8(b'\n');
    frame.put_slice(&data);
    frame.freeze()
}

/// A comment, which every client skips; it keeps the connection alive and tells people who look.
#[must_use]
pub fn comment(text: &str) -> Bytes {
    let mut frame = BytesMut::with_capacity(text.len() + 4);
    frame.put_slice(b": ");
    frame.extend(text.bytes().map(|byte| if byte < b' ' { b' ' } else { byte }));
    frame.put_slice(b"\n\n");
    frame.freeze()
}

/// A status line that Open WebUI shows above the answer. Other clients would take it for a chunk
/// without choices, so it is sent to nobody else.
#[must_use]
pub fn open_webui_status(description: &str, progress: Progress) -> Bytes {
    #[derive(Serialize)]
    struct Outer<'a> {
        event: Event<'a>,
    }
    #[derive(Serialize)]
    struct Event<'a> {
        r#type: &'static str,
        data: Status<'a>,
    }
    #[derive(Serialize)]
    struct Status<'a> {
        action: &'static str,
        description: &'a str,
        done: bool,
    }
    let status = Status { action: "queue", description, done: progress == Progress::Ended };
    let outer = Outer { event: Event { r#type: "status", data: status } };
    serde_json::to_vec(&outer).map_or_else(|_| comment(description), |json| data(&json))
}

/// Has Open WebUI show another model's name above the answer: the one that gave it.
#[must_use]
pub fn open_webui_model(model: &str) -> Bytes {
    #[derive(Serialize)]
    struct Selected<'a> {
        selected_model_id: &'a str,
    }
    serde_json::to_vec(&Selected { selected_model_id: model })
        .map_or_else(|_| comment(model), |json| data(&json))
}

/// Whether Open WebUI goes on showing its spinner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Still waiting.
    Waiting,
    /// The wait is over.
    Ended,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_passed_on_byte_for_byte() {
        let chunk = br#"{"choices":[ ],"x_new":1.50,"s":"\u00e9"}"#;
        assert_eq!(data(chunk), Bytes::from([b"data: ", &chunk[..], b"\n\n"].concat()));
    }

    #[test]
    fn a_line_break_cannot_end_an_event_early() {
        assert_eq!(data(b"{\n\"a\":1\r\n}"), "data: {\ndata: \"a\":1\ndata: }\n\n");
        assert_eq!(comment("a\n\ndata: forged"), ": a  data: forged\n\n");
    }

    #[test]
    fn open_webui_reads_its_own_status_shape() {
        let frame = open_webui_status("Silver sleeps", Progress::Waiting);
        assert_eq!(
            frame,
            "data: {\"event\":{\"type\":\"status\",\"data\":{\"action\":\"queue\",\"description\":\"Silver sleeps\",\
             \"done\":false}}}\n\n"
        );
    }
}
