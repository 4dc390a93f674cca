//! Processors: how each spent its time since the sample before.

use crate::health::text::{lines, next_number, number, words};
use crate::reading::{Missing, Reading};

/// The kernel's bound on processors (`CONFIG_NR_CPUS`) is 8,192 at most.
const CORES_MAX: usize = 8192;

/// Time spent since boot, in ticks of 1/100 s, as `/proc/stat` has it. Time of guests is
/// already contained in `user` and `nice` and is therefore not read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticks {
    user: u64,
    nice: u64,
    system: u64,
    idle: u64,
    iowait: u64,
    irq: u64,
    softirq: u64,
    steal: u64,
}

/// What `/proc/stat` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuCounters {
    /// All processors together.
    pub total: Ticks,
    /// Each online processor by its number, ascending.
    pub cores: Vec<(u32, Ticks)>,
}

/// How time was spent, as fractions that sum to one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shares {
    /// Programs, niced ones and guests included.
    pub user: f64,
    /// The kernel, interrupts included.
    pub system: f64,
    /// Idle while a device was waited for.
    pub iowait: f64,
    /// Wanted to run while the hypervisor ran somebody else.
    pub steal: f64,
    /// Idle.
    pub idle: f64,
}

/// One processor.
#[derive(Clone, Debug, PartialEq)]
pub struct Core {
    /// Its number; numbers of processors that are offline are left out.
    pub number: u32,
    /// Missing for a processor that just came online.
    pub shares: Reading<Shares>,
}

/// Reads `/proc/stat`.
///
/// # Errors
/// [`Missing::Malformed`] without a line for all processors.
pub(super) fn parse(text: &[u8]) -> Reading<CpuCounters> {
    let mut counters = CpuCounters::default();
    let mut total = None;
    for line in lines(text) {
        let mut words = words(line);
        let Some(key) = words.next() else { continue };
        // The lines of processors come first; behind them stand up to 100 KB of interrupts.
        let Some(core) = key.strip_prefix(b"cpu") else { break };
        if core.is_empty() {
            total = ticks(words);
        } else if let Some(core) = number(core).and_then(|core| u32::try_from(core).ok())
            && let Some(ticks) = ticks(words)
            && counters.cores.len() < CORES_MAX
        {
            counters.cores.push((core, ticks));
        }
    }
    counters.total = total.ok_or(Missing::Malformed("/proc/stat"))?;
    // The kernel writes them in order; the search for a core's earlier ticks relies on it.
    counters.cores.sort_unstable_by_key(|(core, _)| *core);
    Ok(counters)
}

/// Four columns are as old as Linux; those behind came later and count as zero without them.
fn ticks<'a>(mut words: impl Iterator<Item = &'a [u8]>) -> Option<Ticks> {
    Some(Ticks {
        user: next_number(&mut words)?,
        nice: next_number(&mut words)?,
        system: next_number(&mut words)?,
        idle: next_number(&mut words)?,
        iowait: next_number(&mut words).unwrap_or_default(),
        irq: next_number(&mut words).unwrap_or_default(),
        softirq: next_number(&mut words).unwrap_or_default(),
        steal: next_number(&mut words).unwrap_or_default(),
    })
}

/// How time was spent between two samples.
///
/// # Errors
/// [`Missing::CounterReset`] when time went backwards, [`Missing::NoTimePassed`] when it stood.
pub(super) fn shares(before: &Ticks, after: &Ticks) -> Reading<Shares> {
    if after.busy() < before.busy() {
        return Err(Missing::CounterReset);
    }
    // Idle and iowait of a tickless core are estimates that the kernel sometimes takes back.
    let idle = after.idle.saturating_sub(before.idle);
    let iowait = after.iowait.saturating_sub(before.iowait);
    let user = delta(before.user, after.user).saturating_add(delta(before.nice, after.nice));
    let system = delta(before.system, after.system)
        .saturating_add(delta(before.irq, after.irq))
        .saturating_add(delta(before.softirq, after.softirq));
    let steal = delta(before.steal, after.steal);
    let parts = [user, system, iowait, steal, idle].map(|part| part as f64);
    let total: f64 = parts.iter().sum();
    if total == 0.0 {
        return Err(Missing::NoTimePassed);
    }
    let [user, system, iowait, steal, idle] = parts.map(|part| part / total);
    Ok(Shares { user, system, iowait, steal, idle })
}

/// How each core of `after` spent its time since `before`; `before` ascends by number.
pub(super) fn cores(before: &[(u32, Ticks)], after: &[(u32, Ticks)]) -> Vec<Core> {
    let one = |(number, ticks): &(u32, Ticks)| {
        let earlier = before.binary_search_by_key(number, |(core, _)| *core);
        let earlier = earlier.ok().and_then(|index| before.get(index));
        let shares = match earlier {
            Some((_, earlier)) => shares(earlier, ticks),
            None => Err(Missing::FirstSample),
        };
        Core { number: *number, shares }
    };
    after.iter().map(one).collect()
}

fn delta(before: u64, after: u64) -> u64 {
    after.saturating_sub(before)
}

impl Ticks {
    fn busy(&self) -> u64 {
        [self.user, self.nice, self.system, self.irq, self.softirq, self.steal]
            .iter()
            .fold(0, |sum, part| sum.saturating_add(*part))
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;

    const STAT: &[u8] = b"cpu  400 20 100 900 50 5 5 20 0 0\n\
        cpu0 200 10 50 450 25 3 2 10 0 0\n\
        cpu1 200 10 50 450 25 2 3 10 0 0\n\
        intr 99 1 2 3\nctxt 77\nbtime 1760000000\nprocesses 55\n\
        procs_running 3\nprocs_blocked 1\nsoftirq 1 2 3\n";

    fn ticks(user: u64, system: u64, idle: u64) -> Ticks {
        Ticks { user, system, idle, ..Ticks::default() }
    }

    #[test]
    fn stat_is_read() {
        let counters = parse(STAT).unwrap();
        assert_eq!(counters.cores.len(), 2);
        assert_eq!(counters.total.steal, 20);
    }

    #[test]
    fn a_file_without_the_line_of_all_processors_is_missing_and_not_zero() {
        assert!(
            parse(
                b"cpu0 1 2 3 4
"
            )
            .is_err()
        );
        assert!(parse(b"").is_err());
    }

    #[test]
    fn shares_follow_the_difference() {
        let cases = [
            (ticks(0, 0, 0), ticks(50, 25, 25), Ok((0.5, 0.25, 0.25))),
            (ticks(100, 100, 100), ticks(100, 100, 200), Ok((0.0, 0.0, 1.0))),
            // Idle time that was taken back does not make a share negative.
            (ticks(100, 100, 200), ticks(110, 100, 190), Ok((1.0, 0.0, 0.0))),
            (ticks(5, 5, 5), ticks(5, 5, 5), Err(Missing::NoTimePassed)),
            (ticks(900, 5, 5), ticks(3, 5, 50), Err(Missing::CounterReset)),
            (ticks(0, 0, 0), ticks(u64::MAX, u64::MAX, 0), Ok((0.5, 0.5, 0.0))),
        ];
        for (before, after, expected) in cases {
            let shares = shares(&before, &after);
            assert_eq!(shares.map(|s| (s.user, s.system, s.idle)), expected);
        }
    }

    #[test]
    fn a_core_that_came_online_has_no_share_yet_and_the_others_do() {
        let before = [(0, ticks(0, 0, 0)), (2, ticks(0, 0, 0))];
        let after = [(0, ticks(1, 0, 0)), (1, ticks(9, 0, 0)), (2, ticks(0, 1, 0))];
        let cores = cores(&before, &after);
        assert_eq!(cores.iter().map(|c| c.number).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(cores[1].shares, Err(Missing::FirstSample));
        assert_eq!(cores[2].shares.as_ref().unwrap().system, 1.0);
    }

    #[test]
    fn four_thousand_and_ninety_six_cores_are_all_there() {
        let mut text = "cpu 1 1 1 1 1 1 1 1\n".to_owned();
        for core in 0..4096 {
            writeln!(text, "cpu{core} {core} 0 0 1").unwrap();
        }
        let counters = parse(text.as_bytes()).unwrap();
        assert_eq!(counters.cores.len(), 4096);
        assert_eq!(cores(&counters.cores, &counters.cores).len(), 4096);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(text: Vec<u8>) {
            let _survived = parse(&text);
        }

        #[test]
        fn any_cut_of_a_good_file_is_survived(end in 0..STAT.len()) {
            let _survived = parse(&STAT[..end]);
        }

        #[test]
        fn shares_sum_to_one_or_are_missing(a: [u32; 3], b: [u32; 3]) {
            let [before, after] = [a, b].map(|[u, s, i]| ticks(u.into(), s.into(), i.into()));
            if let Ok(s) = shares(&before, &after) {
                let sum = s.user + s.system + s.iowait + s.steal + s.idle;
                prop_assert!((sum - 1.0).abs() < 1e-9, "{sum}");
            }
        }
    }
}
