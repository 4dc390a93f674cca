//! Server-sent events, as far as providers use them (WHATWG HTML, section 9.2).

/// Longest event, in bytes: more than any chunk with its probabilities.
const EVENT_BYTES_MAX: usize = 1 << 20;

/// Turns bytes into the data of events; keeps what is unfinished for the next bytes.
#[derive(Debug, Default)]
pub(super) struct Events {
    line: Vec<u8>,
    data: Option<Vec<u8>>,
    after_return: bool,
}

/// An event is longer than any chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of the answer is longer than {EVENT_BYTES_MAX} bytes")]
pub(super) struct TooLong;

impl Events {
    /// Takes the next bytes and gives the data of the events that they complete. Comments and
    /// fields other than `data` are passed over.
    ///
    /// # Errors
    /// An event is too long; nothing more can be read then.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, TooLong> {
        let mut events = Vec::new();
        for byte in bytes {
            let is_second_half = std::mem::take(&mut self.after_return) && *byte == b'\n';
            match byte {
                _ if is_second_half => {}
                b'\r' | b'\n' => {
                    self.after_return = *byte == b'\r';
                    events.extend(self.end_line());
                }
                byte => self.line.push(*byte),
            }
            let held = self.line.len() + self.data.as_ref().map_or(0, Vec::len);
            if held > EVENT_BYTES_MAX {
                return Err(TooLong);
            }
        }
        Ok(events)
    }

    /// Whether an event has begun that nothing has ended.
    #[must_use]
    pub(super) fn is_inside_event(&self) -> bool {
        !self.line.is_empty() || self.data.is_some()
    }

    fn end_line(&mut self) -> Option<Vec<u8>> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return self.data.take();
        }
        let value = line.strip_prefix(b"data:")?;
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match &mut self.data {
            Some(data) => {
                data.push(b'\n');
                data.extend_from_slice(value);
            }
            None => self.data = Some(value.to_vec()),
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str =
        ": hello\r\n\r\ndata: {\"a\":1}\n\nevent: x\ndata:b\ndata: c\r\n\r\ndata: [DONE]\n\n";

    #[test]
    fn a_stream_cut_anywhere_gives_the_same_events() {
        for size in 1..STREAM.len() {
            let mut events = Events::default();
            let mut all = Vec::new();
            for piece in STREAM.as_bytes().chunks(size) {
                all.extend(events.feed(piece).expect("fits"));
            }
            assert_eq!(all, [&b"{\"a\":1}"[..], b"b\nc", b"[DONE]"], "by {size}");
            assert!(!events.is_inside_event());
        }
    }

    #[test]
    fn an_event_that_never_ends_is_refused() {
        let mut events = Events::default();
        let line = vec![b'x'; EVENT_BYTES_MAX];
        assert_eq!(events.feed(&line), Ok(vec![]));
        assert_eq!(events.feed(b"xx"), Err(TooLong));
    }
}
