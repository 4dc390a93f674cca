//! A bound on the bandwidth that a repository takes.

use std::{
    fmt::Debug,
    io,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use bytes::Bytes;
use homelab_common::clock::Clock;
use jiff::Timestamp;

use super::{Inner, Listed, Range, Storage};
use crate::repository::probe::Grade;

/// So much may pass at once after a rest, in seconds of the rate.
const BURST_SECONDS: u64 = 1;

/// A bucket that fills with `rate` bytes a second. Files are the grain: a file
/// larger than what is in the bucket puts it into debt, and the next one waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Bytes a second; never 0.
    rate: u64,
    /// Bytes that may pass; below 0 while in debt.
    level: i128,
    filled_at: Timestamp,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub fn new(rate: u64, now: Timestamp) -> Self {
        let rate = rate.max(1);
        Self { rate, level: i128::from(rate * BURST_SECONDS), filled_at: now }
    }

    /// Takes `bytes` out; says how long to wait before they may pass. A clock that
    /// goes back fills nothing.
    pub fn take(&mut self, bytes: u64, now: Timestamp) -> Duration {
        let elapsed = Duration::try_from(now.duration_since(self.filled_at)).unwrap_or_default();
        let rate = i128::from(self.rate);
        let gained = rate * i128::try_from(elapsed.as_micros()).unwrap_or(0) / 1_000_000;
        self.level = (self.level + gained).min(rate * i128::from(BURST_SECONDS));
        self.filled_at = now;
        let debt = (-self.level).max(0);
        self.level -= i128::from(bytes);
        Duration::from_micros(u64::try_from(debt * 1_000_000 / rate).unwrap_or(u64::MAX))
    }
}

/// Passes the time; a test only notes it.
pub trait Pause: Debug + Send + Sync {
    /// Blocks for so long.
    fn pause(&self, duration: Duration);
}

/// Lets the thread sleep.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sleep;

impl Pause for Sleep {
    fn pause(&self, duration: Duration) {
        if !duration.is_zero() {
            thread::sleep(duration);
        }
    }
}

/// Keeps reading and writing below a rate.
#[derive(Debug)]
pub struct Limited {
    inner: Inner,
    bucket: Arc<Mutex<Bucket>>,
    clock: Arc<dyn Clock>,
    pause: Arc<dyn Pause>,
}

impl Limited {
    /// Passes `inner`'s bytes through `bucket`, which all of a repository's storages
    /// share.
    #[must_use]
    pub fn new(
        inner: Inner,
        bucket: Arc<Mutex<Bucket>>,
        clock: Arc<dyn Clock>,
        pause: Arc<dyn Pause>,
    ) -> Self {
        Self { inner, bucket, clock, pause }
    }

    fn take(&self, bytes: usize) {
        let now = self.clock.now();
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = bucket.take(bytes as u64, now);
        drop(bucket);
        self.pause.pause(wait);
    }

    fn taken(&self, content: io::Result<Bytes>) -> io::Result<Bytes> {
        let content = content?;
        self.take(content.len());
        Ok(content)
    }
}

impl Storage for Limited {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn list(&self, folder: &str) -> io::Result<Vec<Listed>> {
        self.inner.list(folder)
    }

    fn bytes_of(&self, path: &str) -> io::Result<u64> {
        self.inner.bytes_of(path)
    }

    fn read(&self, path: &str) -> io::Result<Bytes> {
        self.taken(self.inner.read(path))
    }

    fn read_range(&self, path: &str, range: Range) -> io::Result<Bytes> {
        self.taken(self.inner.read_range(path, range))
    }

    fn read_back(&self, path: &str) -> io::Result<Bytes> {
        self.taken(self.inner.read_back(path))
    }

    fn write(&self, path: &str, content: Bytes) -> io::Result<()> {
        self.take(content.len());
        self.inner.write(path, content)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.inner.remove(path)
    }

    fn make_folder(&self, path: &str) -> io::Result<()> {
        self.inner.make_folder(path)
    }

    fn probe(&self) -> io::Result<Grade> {
        self.inner.probe()
    }

    fn available_bytes(&self) -> io::Result<Option<u64>> {
        self.inner.available_bytes()
    }

    fn is_writable(&self) -> io::Result<bool> {
        self.inner.is_writable()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).expect("a time")
    }

    #[test]
    fn a_full_bucket_lets_a_burst_pass_and_then_holds_the_rate() {
        let mut bucket = Bucket::new(1000, at(0));
        assert_eq!(bucket.take(1000, at(0)), Duration::ZERO);
        assert_eq!(bucket.take(3000, at(0)), Duration::ZERO);
        // 3000 bytes in debt.
        assert_eq!(bucket.take(500, at(0)), Duration::from_secs(3));
        assert_eq!(bucket.take(500, at(3)), Duration::from_millis(500));
    }

    #[test]
    fn a_long_rest_saves_up_one_second_and_no_more() {
        let mut bucket = Bucket::new(1000, at(0));
        bucket.take(1000, at(0));
        assert_eq!(bucket.take(1500, at(3600)), Duration::ZERO);
        assert_eq!(bucket.take(1, at(3600)), Duration::from_millis(500));
    }

    #[test]
    fn a_clock_that_goes_back_fills_nothing() {
        let mut bucket = Bucket::new(1000, at(100));
        bucket.take(2000, at(100));
        assert_eq!(bucket.take(1, at(0)), Duration::from_secs(1));
    }
}
