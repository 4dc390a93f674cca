//! Refuses attempts that have been overtaken.
//!
//! A controller that lost sight of this worker gives the job to somebody else under
//! a higher number; what it asked for under the lower one must not start any more.

use std::collections::{HashMap, VecDeque};

/// How many jobs are remembered. Far more than can be in flight, and bounded.
const JOBS_MAX: usize = 4096;

/// The attempt is older than one that was seen for the same job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("attempt {got} of the job was overtaken by attempt {seen}")]
pub struct Overtaken {
    /// The attempt that was refused.
    pub got: u32,
    /// The newest attempt seen.
    pub seen: u32,
}

/// The newest attempt of each job that was seen lately.
#[derive(Debug, Default)]
pub struct Fence {
    newest: HashMap<String, u32>,
    oldest_first: VecDeque<String>,
}

impl Fence {
    /// Lets an attempt pass that is at least as new as any before it.
    ///
    /// # Errors
    /// [`Overtaken`].
    pub fn pass(&mut self, job: &str, attempt: u32) -> Result<(), Overtaken> {
        if let Some(seen) = self.newest.get_mut(job) {
            if attempt < *seen {
                return Err(Overtaken { got: attempt, seen: *seen });
            }
            *seen = attempt;
            return Ok(());
        }
        if self.oldest_first.len() >= JOBS_MAX
            && let Some(forgotten) = self.oldest_first.pop_front()
        {
            self.newest.remove(&forgotten);
        }
        self.newest.insert(job.to_owned(), attempt);
        self.oldest_first.push_back(job.to_owned());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overtaken_attempt_is_refused() {
        let mut fence = Fence::default();
        assert_eq!(fence.pass("job", 2), Ok(()));
        assert_eq!(fence.pass("job", 1), Err(Overtaken { got: 1, seen: 2 }));
        assert_eq!(fence.pass("job", 2), Ok(()));
        assert_eq!(fence.pass("job", 3), Ok(()));
        assert_eq!(fence.pass("other", 1), Ok(()));
    }

    #[test]
    fn it_remembers_a_bounded_number_of_jobs() {
        let mut fence = Fence::default();
        for job in 0..=JOBS_MAX {
            fence.pass(&job.to_string(), 5).unwrap();
        }
        assert_eq!(fence.newest.len(), JOBS_MAX);
        assert_eq!(fence.pass("0", 1), Ok(()), "the oldest was forgotten");
        assert!(fence.pass("4096", 1).is_err());
    }
}
