//! What a program left behind.

use std::collections::VecDeque;

/// How much of standard error is kept, in bytes.
pub(super) const STDERR_TAIL_BYTES: usize = 8 * 1024;

/// A program that ended as it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Everything that it wrote to standard output.
    pub stdout: Vec<u8>,
    /// The end (8 KiB) of what it wrote to standard error.
    pub stderr_tail: String,
    /// Its exit code, one of the accepted ones.
    pub code: i32,
}

impl Output {
    /// Standard output as text; what is not UTF-8 is replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// How a streamed program ended, when it ended as it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The end (8 KiB) of what it wrote to standard error.
    pub stderr_tail: String,
    /// Its exit code, one of the accepted ones.
    pub code: i32,
}

/// The last bytes of a stream.
#[derive(Clone, Debug, Default)]
pub(super) struct Tail(VecDeque<u8>);

impl Tail {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let kept = bytes.len().min(STDERR_TAIL_BYTES);
        self.0.extend(bytes.iter().skip(bytes.len() - kept));
        let excess = self.0.len().saturating_sub(STDERR_TAIL_BYTES);
        self.0.drain(..excess);
    }

    pub(super) fn text(&self) -> String {
        let bytes: Vec<u8> = self.0.iter().copied().collect();
        String::from_utf8_lossy(&bytes).trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_bytes_are_kept() {
        let mut tail = Tail::default();
        tail.push(&[b'a'; 10_000]);
        tail.push(b"end");
        assert_eq!(tail.text().len(), STDERR_TAIL_BYTES);
        assert!(tail.text().ends_with("aaaend"));
    }
}
