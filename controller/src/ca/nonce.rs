//! The nonces of enrolments, without a book of them.
//!
//! A nonce is a MAC over what it is for: the token's identifier, the TLS connection and the current
//! five minutes. So there is nothing to store, nothing that a flood of `BeginEnrolment` could fill
//! or push out, and a restart does no harm but to those in flight. A proof over it cannot be used
//! on another connection.

use homelab_common::chance::Chance;
use jiff::Timestamp;
use ring::hmac::{HMAC_SHA256, Key, sign};

/// How long one nonce is given out, in seconds. It is accepted for as long again.
const PERIOD_SECS: i64 = 5 * 60;

/// Length of a nonce in bytes.
pub const NONCE_BYTES: usize = 32;

/// Gives nonces, and gives the same again to check a proof.
#[derive(Debug)]
pub struct Nonces {
    key: Key,
}

impl Nonces {
    /// Nonces that nobody can foresee; they end with the process.
    #[must_use]
    pub fn new(chance: &dyn Chance) -> Self {
        let mut key = [0; 32];
        chance.fill(&mut key);
        Self { key: Key::new(HMAC_SHA256, &key) }
    }

    /// The nonce for a token on a connection.
    #[must_use]
    pub fn current(&self, token_id: &str, connection: &[u8], now: Timestamp) -> [u8; NONCE_BYTES] {
        self.of_period(token_id, connection, now.as_second().div_euclid(PERIOD_SECS))
    }

    /// The nonces that a proof may be made over now.
    #[must_use]
    pub fn accepted(
        &self,
        token_id: &str,
        connection: &[u8],
        now: Timestamp,
    ) -> [[u8; NONCE_BYTES]; 2] {
        let period = now.as_second().div_euclid(PERIOD_SECS);
        [period, period - 1].map(|period| self.of_period(token_id, connection, period))
    }

    fn of_period(&self, token_id: &str, connection: &[u8], period: i64) -> [u8; NONCE_BYTES] {
        let mut message = Vec::with_capacity(8 + connection.len() + token_id.len());
        // Fixed lengths first, so that no two inputs read the same.
        message.extend_from_slice(&period.to_be_bytes());
        message.extend_from_slice(&connection.len().to_be_bytes());
        message.extend_from_slice(connection);
        message.extend_from_slice(token_id.as_bytes());
        let mut nonce = [0; NONCE_BYTES];
        nonce.copy_from_slice(sign(&self.key, &message).as_ref());
        nonce
    }
}

#[cfg(test)]
mod tests {
    use homelab_common::chance::SeededChance;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("a time")
    }

    #[test]
    fn a_nonce_is_accepted_for_five_minutes_and_not_for_ten() {
        let nonces = Nonces::new(&SeededChance::new(1));
        let given = nonces.current("t", b"c", at(1_000));
        for later in [0, 60, 299] {
            assert!(nonces.accepted("t", b"c", at(1_000 + later)).contains(&given), "{later} s");
        }
        assert!(!nonces.accepted("t", b"c", at(1_600)).contains(&given));
    }

    #[test]
    fn it_fits_one_token_one_connection_and_one_process() {
        let nonces = Nonces::new(&SeededChance::new(1));
        let given = nonces.current("t", b"c", at(0));
        assert_ne!(given, nonces.current("u", b"c", at(0)));
        assert_ne!(given, nonces.current("t", b"d", at(0)));
        assert_ne!(given, Nonces::new(&SeededChance::new(2)).current("t", b"c", at(0)));
        assert_eq!(given, nonces.current("t", b"c", at(299)));
    }
}
