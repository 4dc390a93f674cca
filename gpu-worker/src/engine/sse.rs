//! Server-sent events, as far as inference engines use them.
//!
//! Bytes come in as the network cuts them and whole events go out. Every buffer
//! has a bound, because the engine is a foreign program: one that never sends a
//! line end must not fill our memory. Reconnecting, event ids and retry times are
//! left out on purpose: an answer that was cut is not resumed but reported.

use std::collections::VecDeque;

use bytes::Bytes;

/// How much of one event is held before the engine is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest line in bytes, without its end.
    pub line_bytes_max: usize,
    /// Most data of one event in bytes, over all its lines.
    pub event_bytes_max: usize,
}

impl Default for Limits {
    /// A chunk with the log-probabilities of one token is some 10 KiB; tool
    /// arguments that arrive in one piece are the largest seen, below 200 KiB.
    fn default() -> Self {
        Self { line_bytes_max: 1 << 20, event_bytes_max: 1 << 20 }
    }
}

/// One thing that the engine said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An event with data; several `data` lines are joined by a line feed.
    Message {
        /// `true` when the engine named the event `error`, or used the field
        /// `error` in place of `data` as older builds of llama-server do.
        is_error: bool,
        /// The payload, exactly as sent.
        data: Bytes,
    },
    /// A comment. It has no content but proves that the engine lives.
    Comment,
}

/// Why a stream of bytes is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    /// A line did not end within the bound.
    #[error("a line is longer than {line_bytes_max} bytes")]
    LineTooLong {
        /// The bound.
        line_bytes_max: usize,
    },
    /// The data lines of one event passed the bound together.
    #[error("an event is larger than {event_bytes_max} bytes")]
    EventTooLong {
        /// The bound.
        event_bytes_max: usize,
    },
}

/// Turns bytes into events; keeps what is unfinished for the next bytes.
#[derive(Debug)]
pub struct Parser {
    limits: Limits,
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    is_error: bool,
    after_carriage_return: bool,
    at_first_line: bool,
}

impl Parser {
    /// A parser at the start of a stream.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            line: Vec::new(),
            data: Vec::new(),
            has_data: false,
            is_error: false,
            after_carriage_return: false,
            at_first_line: true,
        }
    }

    /// Takes the next bytes and appends the events that they complete.
    ///
    /// # Errors
    /// [`SseError`] when a bound is passed; the parser is of no use after that.
    pub fn feed(&mut self, bytes: &[u8], events: &mut VecDeque<Event>) -> Result<(), SseError> {
        let mut rest = bytes;
        if self.after_carriage_return && !rest.is_empty() {
            // The line feed of a pair that was cut in two ends no second line.
            self.after_carriage_return = false;
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        }
        while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let (head, tail) = rest.split_at(end);
            self.extend_line(head)?;
            self.end_line(events)?;
            rest = match tail {
                [b'\r', b'\n', after @ ..] | [_, after @ ..] => after,
                [] => tail,
            };
            self.after_carriage_return = tail == b"\r";
        }
        self.extend_line(rest)
    }

    /// Whether an event has begun that no blank line has ended.
    pub fn is_inside_event(&self) -> bool {
        self.has_data || !self.line.is_empty()
    }

    fn extend_line(&mut self, bytes: &[u8]) -> Result<(), SseError> {
        let line_bytes_max = self.limits.line_bytes_max;
        if self.line.len() + bytes.len() > line_bytes_max {
            return Err(SseError::LineTooLong { line_bytes_max });
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self, events: &mut VecDeque<Event>) -> Result<(), SseError> {
        let line = std::mem::take(&mut self.line);
        let mut text = line.as_slice();
        if std::mem::take(&mut self.at_first_line) {
            text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text);
        }
        let outcome = self.take_line(text, events);
        // The buffer is kept, so that a stream of small chunks allocates it once.
        self.line = line;
        self.line.clear();
        outcome
    }

    fn take_line(&mut self, line: &[u8], events: &mut VecDeque<Event>) -> Result<(), SseError> {
        if line.is_empty() {
            self.end_event(events);
            return Ok(());
        }
        let (name, value) = split_field(line);
        match name {
            b"" => events.push_back(Event::Comment),
            b"data" => self.extend_data(value)?,
            b"error" => {
                self.is_error = true;
                self.extend_data(value)?;
            }
            b"event" => self.is_error = value == b"error",
            _ => {}
        }
        Ok(())
    }

    fn extend_data(&mut self, value: &[u8]) -> Result<(), SseError> {
        let event_bytes_max = self.limits.event_bytes_max;
        if self.data.len() + value.len() + 1 > event_bytes_max {
            return Err(SseError::EventTooLong { event_bytes_max });
        }
        if self.has_data {
            self.data.push(b'\n');
        }
        self.has_data = true;
        self.data.extend_from_slice(value);
        Ok(())
    }

    fn end_event(&mut self, events: &mut VecDeque<Event>) {
        let is_error = std::mem::take(&mut self.is_error);
        if std::mem::take(&mut self.has_data) {
            let data = Bytes::copy_from_slice(&self.data);
            self.data.clear();
            events.push_back(Event::Message { is_error, data });
        }
    }
}

/// Splits `name: value`; one space after the colon belongs to neither.
fn split_field(line: &[u8]) -> (&[u8], &[u8]) {
    match line.iter().position(|byte| *byte == b':') {
        None => (line, &[]),
        Some(colon) => {
            let (name, rest) = line.split_at(colon);
            let value = rest.strip_prefix(b":").unwrap_or(rest);
            (name, value.strip_prefix(b" ").unwrap_or(value))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(data: &str) -> Event {
        Event::Message { is_error: false, data: Bytes::copy_from_slice(data.as_bytes()) }
    }

    fn error(data: &str) -> Event {
        Event::Message { is_error: true, data: Bytes::copy_from_slice(data.as_bytes()) }
    }

    fn parse(pieces: &[&[u8]]) -> Vec<Event> {
        let mut parser = Parser::new(Limits::default());
        let mut events = VecDeque::new();
        for piece in pieces {
            parser.feed(piece, &mut events).unwrap();
        }
        events.into()
    }

    #[test]
    fn every_shape_of_event_is_read() {
        let table: &[(&str, Vec<Event>)] = &[
            ("data: {\"a\":1}\n\n", vec![message("{\"a\":1}")]),
            ("data:[DONE]\n\n", vec![message("[DONE]")]),
            ("data: one\r\n\r\ndata: two\r\n\r\n", vec![message("one"), message("two")]),
            ("data: one\r\rdata: two\r\r", vec![message("one"), message("two")]),
            ("data: one\ndata: two\n\n", vec![message("one\ntwo")]),
            ("data:\n\n", vec![message("")]),
            ("data\n\n", vec![message("")]),
            ("data:  two spaces\n\n", vec![message(" two spaces")]),
            ("data: a: b\n\n", vec![message("a: b")]),
            (": ping\n\n", vec![Event::Comment]),
            (":\n\ndata: x\n\n", vec![Event::Comment, message("x")]),
            ("id: 7\nretry: 10\ndata: x\n\n", vec![message("x")]),
            ("event: error\ndata: bad\n\n", vec![error("bad")]),
            ("event: error\n\ndata: good\n\n", vec![message("good")]),
            ("error: {\"code\":500}\n\n", vec![error("{\"code\":500}")]),
            ("\u{feff}data: x\n\n", vec![message("x")]),
            ("\n\n\n", vec![]),
            ("data: unfinished\n", vec![]),
        ];
        for (text, expected) in table {
            assert_eq!(&parse(&[text.as_bytes()]), expected, "{text:?}");
        }
    }

    #[test]
    fn a_pair_of_line_ends_cut_in_two_ends_one_line() {
        assert_eq!(parse(&[b"data: x\r", b"\n\r", b"\n"]), [message("x")]);
        assert_eq!(parse(&[b"data: x\r", b"", b"\ndata: y\r\n\r\n"]), [message("x\ny")]);
    }

    #[test]
    fn an_unfinished_event_is_noticed() {
        let mut parser = Parser::new(Limits::default());
        let mut events = VecDeque::new();
        parser.feed(b"data: x\n\n", &mut events).unwrap();
        assert!(!parser.is_inside_event());
        parser.feed(b"da", &mut events).unwrap();
        assert!(parser.is_inside_event());
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut parser = Parser::new(Limits { line_bytes_max: 8, event_bytes_max: 64 });
        let mut events = VecDeque::new();
        parser.feed(b"data: 12", &mut events).unwrap();
        assert_eq!(
            parser.feed(b"3", &mut events),
            Err(SseError::LineTooLong { line_bytes_max: 8 })
        );
    }

    #[test]
    fn an_event_of_endless_lines_is_refused() {
        let mut parser = Parser::new(Limits { line_bytes_max: 64, event_bytes_max: 15 });
        let mut events = VecDeque::new();
        parser.feed(b"data: 1234567\n", &mut events).unwrap();
        assert_eq!(
            parser.feed(b"data: 12345678\n", &mut events),
            Err(SseError::EventTooLong { event_bytes_max: 15 })
        );
    }

    proptest! {
        #[test]
        fn where_the_network_cuts_makes_no_difference(
            text in "((data|event|:|error|x)(: ?)?[a-c:]{0,6}(\n|\r\n|\r)){0,12}(\n|\r\n|\r){0,3}",
            cuts in proptest::collection::vec(1_usize..7, 0..60),
        ) {
            let whole = parse(&[text.as_bytes()]);
            let mut rest = text.as_bytes();
            let mut pieces = Vec::new();
            for cut in cuts {
                let (head, tail) = rest.split_at(cut.min(rest.len()));
                pieces.push(head);
                rest = tail;
            }
            pieces.push(rest);
            prop_assert_eq!(parse(&pieces), whole);
        }

        #[test]
        fn no_bytes_make_it_fail_within_the_bounds(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
            parse(&[&bytes]);
        }
    }
}
