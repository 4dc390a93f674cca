//! Waiting for something to become so, instead of sleeping: a time-out says what never came about.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::bail;

/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What a look found.
#[derive(Debug)]
pub enum Look<T> {
    /// It is so.
    Ready(T),
    /// It is not so yet, and how it stands instead.
    NotYet(String),
}

/// Looks again and again until it is ready.
///
/// # Errors
/// When it is not ready within `within`; says what was waited for and how it stood last. A look that fails
/// counts as not yet, with its error as the state.
pub fn wait_for<T>(
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> anyhow::Result<Look<T>>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + within;
    loop {
        let state = match look() {
            Ok(Look::Ready(found)) => return Ok(found),
            Ok(Look::NotYet(state)) => state,
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() >= deadline {
            bail!("waited {within:?} for {what}; last: {state}");
        }
        thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_so_is_returned() {
        let mut left = 3;
        let found = wait_for("zero", Duration::from_secs(5), || {
            left -= 1;
            Ok(if left == 0 { Look::Ready("zero") } else { Look::NotYet(format!("{left}")) })
        });
        assert_eq!(found.expect("became so"), "zero");
    }

    #[test]
    fn what_never_becomes_so_is_named_with_its_last_state() {
        let error = wait_for("the moon", Duration::ZERO, || {
            Ok(Look::<()>::NotYet("still rising".to_owned()))
        })
        .expect_err("never");
        assert!(
            error.to_string().contains("the moon") && error.to_string().contains("still rising"),
            "{error}"
        );
    }
}
