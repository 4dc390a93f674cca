//! Statements drawn from a sample: is there room, is there memory, does the clock go right.
//!
//! True is always the good state, and nothing is good that could not be found out. A host that
//! has no such thing at all, say no systemd, gets no statement about it rather than an
//! everlasting "unknown"; the clock is the exception, because every host has one.

use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;

use crate::health::Sample;
use crate::health::filesystem::{Access, Filesystem};
use crate::health::sensor::{Sensor, SensorKind};
use crate::reading::{Aged, Missing, Reading};

/// Offenders named in a message; the rest is counted.
const NAMED_MAX: usize = 5;

/// Where good ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// Least share of a filesystem, of its bytes and of its inodes, that must be available.
    pub filesystem_available_share_min: f64,
    /// Least share of memory that must be available.
    pub memory_available_share_min: f64,
    /// Greatest percentage of a minute in which all tasks may wait for memory.
    pub memory_stall_percent_max: f64,
    /// Highest temperature where the chip names none of its own, in degrees Celsius.
    pub temperature_celsius_max: f64,
    /// A slow reading older than this proves nothing.
    pub age_max: Duration,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            filesystem_available_share_min: 0.10,
            memory_available_share_min: 0.05,
            memory_stall_percent_max: 10.0,
            temperature_celsius_max: 90.0,
            age_max: Duration::from_secs(300),
        }
    }
}

/// What is stated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConditionKind {
    /// Every filesystem has bytes and inodes left.
    FilesystemsHaveRoom,
    /// The kernel has shut no filesystem after an error.
    FilesystemsWritable,
    /// Programs can still get memory and do not wait for it.
    MemorySufficient,
    /// Nothing is too hot.
    TemperaturesNormal,
    /// No systemd unit has failed.
    UnitsRunning,
    /// The clock follows a time source.
    ClockSynchronized,
}

/// Whether it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It holds.
    True,
    /// It does not.
    False,
    /// It could not be found out.
    Unknown,
}

/// One dated statement with its reason.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// What is stated.
    pub kind: ConditionKind,
    /// Whether it holds.
    pub status: Status,
    /// Stable reason in `UPPER_SNAKE`.
    pub reason: &'static str,
    /// The same for people, with the figures behind it.
    pub message: String,
    /// Since when the status has been what it is.
    pub since: Timestamp,
}

/// A statement before it is dated.
struct Finding {
    status: Status,
    reason: &'static str,
    message: String,
}

/// All statements about `sample`. Those whose status is as in `before` keep their date.
#[must_use]
pub fn conditions(
    sample: &Sample,
    thresholds: &Thresholds,
    before: &[Condition],
) -> Vec<Condition> {
    let slow = &sample.slow;
    let now = sample.at;
    let filesystems = in_force(now, &slow.filesystems, thresholds.age_max);
    let findings = [
        (ConditionKind::FilesystemsHaveRoom, room(&filesystems, thresholds)),
        (ConditionKind::FilesystemsWritable, writable(&filesystems)),
        (ConditionKind::MemorySufficient, Some(memory(sample, thresholds))),
        (
            ConditionKind::TemperaturesNormal,
            temperature(&in_force(now, &slow.sensors, thresholds.age_max), thresholds),
        ),
        (
            ConditionKind::UnitsRunning,
            units(&in_force(now, &slow.failed_units, thresholds.age_max)),
        ),
        (ConditionKind::ClockSynchronized, Some(clock(sample, thresholds))),
    ];
    let dated = |(kind, finding): (ConditionKind, Option<Finding>)| {
        let Finding { status, reason, message } = finding?;
        let same = before.iter().find(|old| old.kind == kind && old.status == status);
        let since = same.map_or(now, |old| old.since);
        Some(Condition { kind, status, reason, message, since })
    };
    findings.into_iter().filter_map(dated).collect()
}

impl Finding {
    fn good(message: impl Into<String>) -> Self {
        Self { status: Status::True, reason: "AS_EXPECTED", message: message.into() }
    }

    fn bad(reason: &'static str, message: String) -> Self {
        Self { status: Status::False, reason, message }
    }

    fn unknown(why: &Missing) -> Self {
        let reason = match why {
            Missing::NotMeasuredYet => "NOT_MEASURED_YET",
            Missing::Hung { .. } => "PROBE_HANGS",
            _ => "NOT_READABLE",
        };
        Self { status: Status::Unknown, reason, message: why.to_string() }
    }
}

/// The reading, if it is young enough to be believed.
fn in_force<T>(now: Timestamp, aged: &Aged<T>, age_max: Duration) -> Reading<&T> {
    let reading = aged.reading.as_ref().map_err(Clone::clone)?;
    match aged.age(now) {
        Some(age) if age <= age_max => Ok(reading),
        Some(_) => Err(Missing::Hung { after: age_max }),
        None => Err(Missing::NotMeasuredYet),
    }
}

fn room(filesystems: &Reading<&Vec<Filesystem>>, thresholds: &Thresholds) -> Option<Finding> {
    let filesystems = match filesystems {
        Ok(filesystems) => filesystems,
        Err(why) => return unless_absent(why),
    };
    let share_min = thresholds.filesystem_available_share_min;
    let (mut full, mut unknown) = (Offenders::default(), None);
    for filesystem in filesystems.iter() {
        let point = &filesystem.mount.point;
        match &filesystem.usage {
            // What was mounted read-only is as full as it was made.
            _ if filesystem.mount.access == Access::ReadOnly => {}
            Err(why) => unknown = unknown.or(Some((point, why))),
            Ok(usage) => {
                let inodes = usage.inodes.map_or(1.0, |i| share(i.free, i.total));
                let bytes = share(usage.available_bytes, usage.size_bytes);
                if bytes < share_min {
                    full.add(format!("{point} has {:.1} % left", bytes * 100.0));
                } else if inodes < share_min {
                    full.add(format!("{point} has {:.1} % of its inodes left", inodes * 100.0));
                }
            }
        }
    }
    Some(if !full.is_empty() {
        Finding::bad("FILESYSTEM_NEARLY_FULL", full.sentence())
    } else if let Some((point, why)) = unknown {
        let finding = Finding::unknown(why);
        Finding { message: format!("{point}: {why}"), ..finding }
    } else {
        Finding::good(format!(
            "every filesystem has at least {:.0} % left",
            (share_min * 100.0).floor()
        ))
    })
}

fn writable(filesystems: &Reading<&Vec<Filesystem>>) -> Option<Finding> {
    let filesystems = match filesystems {
        Ok(filesystems) => filesystems,
        Err(why) => return unless_absent(why),
    };
    let mut shut = Offenders::default();
    for filesystem in filesystems.iter() {
        if filesystem.mount.access == Access::ForcedReadOnly {
            shut.add(format!("{} was made read-only by the kernel", filesystem.mount.point));
        }
    }
    Some(if shut.is_empty() {
        Finding::good("no filesystem was shut by the kernel")
    } else {
        Finding::bad("FILESYSTEM_READ_ONLY", shut.sentence())
    })
}

fn memory(sample: &Sample, thresholds: &Thresholds) -> Finding {
    let available = sample.memory.as_ref().map_err(Clone::clone).and_then(|memory| {
        let available = memory.available_bytes.clone()?;
        Ok(share(available, memory.total_bytes))
    });
    let available = match available {
        Ok(available) => available,
        Err(why) => return Finding::unknown(&why),
    };
    let percent = available * 100.0;
    if available < thresholds.memory_available_share_min {
        return Finding::bad("MEMORY_LOW", format!("{percent:.1} % of memory is available"));
    }
    // A kernel without PSI cannot tell of stalls; the share alone must do then.
    let stall = sample.pressure.memory.as_ref().ok().and_then(|stall| stall.full);
    match stall.map(|line| line.average_60s_percent) {
        Some(stall) if stall > thresholds.memory_stall_percent_max => Finding::bad(
            "MEMORY_STALLS",
            format!("all tasks waited for memory in {stall:.1} % of the last minute"),
        ),
        _ => Finding::good(format!("{percent:.1} % of memory is available")),
    }
}

fn temperature(sensors: &Reading<&Vec<Sensor>>, thresholds: &Thresholds) -> Option<Finding> {
    let sensors = match sensors {
        Ok(sensors) => sensors,
        Err(why) => return unless_absent(why),
    };
    let (mut hot, mut measured, mut unknown) = (Offenders::default(), 0_usize, None);
    for sensor in sensors.iter().filter(|sensor| sensor.kind == SensorKind::Temperature) {
        match &sensor.value {
            Ok(value) => {
                measured += 1;
                let limit = sensor.critical.unwrap_or(thresholds.temperature_celsius_max);
                if *value >= limit {
                    let Sensor { chip, label, .. } = sensor;
                    hot.add(format!(
                        "{chip} {label} is at {value:.0} °C, its limit is {limit:.0} °C"
                    ));
                }
            }
            Err(why) => unknown = Some(why),
        }
    }
    if !hot.is_empty() {
        return Some(Finding::bad("TOO_HOT", hot.sentence()));
    }
    match (measured, unknown) {
        // Sleeping drives and unused inputs of the board have no value, so one that is known
        // to be cool is enough.
        (1.., _) => Some(Finding::good(format!("{measured} temperatures are below their limits"))),
        (0, Some(why)) => Some(Finding::unknown(why)),
        (0, None) => None,
    }
}

fn units(failed: &Reading<&Vec<String>>) -> Option<Finding> {
    let failed = match failed {
        Ok(failed) => failed,
        Err(why) => return unless_absent(why),
    };
    if failed.is_empty() {
        return Some(Finding::good("no unit has failed"));
    }
    let mut offenders = Offenders::default();
    failed.iter().for_each(|unit| offenders.add(format!("{unit} has failed")));
    Some(Finding::bad("UNITS_FAILED", offenders.sentence()))
}

fn clock(sample: &Sample, thresholds: &Thresholds) -> Finding {
    match in_force(sample.at, &sample.slow.time_sync, thresholds.age_max) {
        Ok(sync) if sync.is_synchronized => {
            Finding::good(format!("the clock is synchronised, says {}", sync.source))
        }
        Ok(sync) => Finding::bad(
            "CLOCK_NOT_SYNCHRONIZED",
            format!("the clock follows no time source, says {}", sync.source),
        ),
        Err(why) => Finding::unknown(&why),
    }
}

fn unless_absent(why: &Missing) -> Option<Finding> {
    (!matches!(why, Missing::Absent(_))).then(|| Finding::unknown(why))
}

/// `part` of `whole`; a whole of nothing has nothing left.
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// What is wrong, the first few by name.
#[derive(Default)]
struct Offenders {
    named: Vec<String>,
    others: usize,
}

impl Offenders {
    fn add(&mut self, offender: String) {
        if self.named.len() < NAMED_MAX {
            self.named.push(offender);
        } else {
            self.others += 1;
        }
    }

    fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    fn sentence(&self) -> String {
        let mut sentence = self.named.join("; ");
        if self.others > 0 {
            // Writing to a string does not fail.
            let _infallible = write!(sentence, "; and {} more", self.others);
        }
        sentence
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::health::filesystem::{Inodes, Mount, Usage};
    use crate::health::memory::Memory;
    use crate::health::pressure::{Stall, StallLine};
    use crate::health::slow::Slow;
    use crate::health::time_sync::TimeSync;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn filesystem(access: Access, usage: Reading<Usage>) -> Filesystem {
        let mount = Mount {
            device: (8, 1),
            point: "/srv".to_owned(),
            kind: "ext4".to_owned(),
            source: "/dev/sda1".to_owned(),
            access,
        };
        Filesystem { mount, usage }
    }

    fn usage(available_bytes: u64, inodes: Option<Inodes>) -> Reading<Usage> {
        Ok(Usage { size_bytes: 1000, available_bytes, inodes })
    }

    fn sensor(value: Reading<f64>, critical: Option<f64>) -> Sensor {
        let (chip, label) = ("k10temp".to_owned(), "Tctl".to_owned());
        Sensor { chip, label, kind: SensorKind::Temperature, value, critical }
    }

    /// A host on which all is well.
    fn good() -> Sample {
        let memory = Memory {
            total_bytes: 1000,
            available_bytes: Ok(500),
            arc: Err(Missing::Absent("arcstats".into())),
            swap: Err(Missing::NoValue),
        };
        let slow = Slow {
            filesystems: Aged::new(NOW, Ok(vec![filesystem(Access::Writable, usage(500, None))])),
            sensors: Aged::new(NOW, Ok(vec![sensor(Ok(50.0), Some(95.0))])),
            failed_units: Aged::new(NOW, Ok(Vec::new())),
            time_sync: Aged::new(NOW, Ok(TimeSync { is_synchronized: true, source: "chrony" })),
            ..Slow::default()
        };
        let mut sample = Sample::unknown(NOW);
        sample.memory = Ok(memory);
        sample.slow = Arc::new(slow);
        sample
    }

    fn with_slow(change: impl FnOnce(&mut Slow)) -> Sample {
        let mut sample = good();
        let mut slow = Slow::clone(&sample.slow);
        change(&mut slow);
        sample.slow = Arc::new(slow);
        sample
    }

    fn with_filesystem(access: Access, usage: Reading<Usage>) -> Sample {
        with_slow(|slow| {
            slow.filesystems = Aged::new(NOW, Ok(vec![filesystem(access, usage)]));
        })
    }

    fn with_sensor(value: Reading<f64>, critical: Option<f64>) -> Sample {
        with_slow(|slow| slow.sensors = Aged::new(NOW, Ok(vec![sensor(value, critical)])))
    }

    fn found(sample: &Sample, kind: ConditionKind) -> (Status, &'static str) {
        let all = conditions(sample, &Thresholds::default(), &[]);
        let one = all.into_iter().find(|condition| condition.kind == kind).expect("stated");
        (one.status, one.reason)
    }

    #[test]
    fn a_good_host_has_only_good_conditions() {
        let all = conditions(&good(), &Thresholds::default(), &[]);
        assert_eq!(all.len(), 6);
        assert!(all.iter().all(|condition| condition.status == Status::True), "{all:#?}");
    }

    #[test]
    fn a_host_that_nothing_is_known_of_is_never_healthy() {
        let all = conditions(&Sample::unknown(NOW), &Thresholds::default(), &[]);
        assert!(all.iter().all(|condition| condition.status == Status::Unknown), "{all:#?}");
        assert!(!all.is_empty());
    }

    #[test]
    fn filesystems() {
        use ConditionKind::{FilesystemsHaveRoom, FilesystemsWritable};
        let few_inodes = Some(Inodes { total: 100, free: 3 });
        let hung = Missing::Hung { after: Duration::from_secs(3) };
        let cases = [
            (Access::Writable, usage(99, None), FilesystemsHaveRoom, Status::False),
            (Access::Writable, usage(100, None), FilesystemsHaveRoom, Status::True),
            (Access::Writable, usage(900, few_inodes), FilesystemsHaveRoom, Status::False),
            (Access::Writable, Err(hung), FilesystemsHaveRoom, Status::Unknown),
            (Access::ReadOnly, usage(0, None), FilesystemsHaveRoom, Status::True),
            (Access::ReadOnly, usage(0, None), FilesystemsWritable, Status::True),
            (Access::ForcedReadOnly, usage(900, None), FilesystemsWritable, Status::False),
        ];
        for (access, usage, kind, expected) in cases {
            let sample = with_filesystem(access, usage);
            assert_eq!(found(&sample, kind).0, expected, "{:?}", sample.slow.filesystems);
        }
    }

    #[test]
    fn memory_is_short_or_waited_for() {
        let mut sample = good();
        sample.memory.as_mut().unwrap().available_bytes = Ok(49);
        let low = found(&sample, ConditionKind::MemorySufficient);
        assert_eq!(low, (Status::False, "MEMORY_LOW"));

        let mut sample = good();
        let line = StallLine {
            average_10s_percent: 0.0,
            average_60s_percent: 20.0,
            average_300s_percent: 0.0,
            total_micros: 0,
        };
        sample.pressure.memory = Ok(Stall { some: line, full: Some(line) });
        let stalls = found(&sample, ConditionKind::MemorySufficient);
        assert_eq!(stalls, (Status::False, "MEMORY_STALLS"));
    }

    #[test]
    fn temperatures_follow_the_limit_of_the_chip_and_then_ours() {
        let status = |value, critical| {
            found(&with_sensor(value, critical), ConditionKind::TemperaturesNormal).0
        };
        assert_eq!(status(Ok(84.0), Some(85.0)), Status::True);
        assert_eq!(status(Ok(85.0), Some(85.0)), Status::False);
        assert_eq!(status(Ok(89.0), None), Status::True);
        assert_eq!(status(Ok(90.0), None), Status::False);
        assert_eq!(status(Err(Missing::NoValue), None), Status::Unknown);
    }

    #[test]
    fn failed_units_are_named() {
        let failed: Vec<String> = (0..9).map(|n| format!("u{n}.service")).collect();
        let sample = with_slow(|slow| slow.failed_units = Aged::new(NOW, Ok(failed)));
        let all = conditions(&sample, &Thresholds::default(), &[]);
        let units = all.iter().find(|c| c.kind == ConditionKind::UnitsRunning).unwrap();
        assert_eq!(units.status, Status::False);
        assert!(units.message.starts_with("u0.service has failed"), "{}", units.message);
        assert!(units.message.ends_with("and 4 more"), "{}", units.message);
    }

    #[test]
    fn a_host_without_systemd_gets_no_statement_about_units() {
        let absent = Missing::Absent("systemd".into());
        let sample = with_slow(|slow| slow.failed_units = Aged::new(NOW, Err(absent)));
        let all = conditions(&sample, &Thresholds::default(), &[]);
        assert!(all.iter().all(|condition| condition.kind != ConditionKind::UnitsRunning));
    }

    #[test]
    fn a_clock_that_nobody_vouches_for_is_unknown() {
        let absent = Missing::Absent("time daemon".into());
        let sample = with_slow(|slow| slow.time_sync = Aged::new(NOW, Err(absent)));
        assert_eq!(found(&sample, ConditionKind::ClockSynchronized).0, Status::Unknown);
    }

    #[test]
    fn a_reading_that_grew_old_proves_nothing() {
        let mut sample = good();
        sample.at = NOW + Duration::from_secs(301);
        for kind in [ConditionKind::FilesystemsHaveRoom, ConditionKind::ClockSynchronized] {
            assert_eq!(found(&sample, kind).0, Status::Unknown);
        }
    }

    #[test]
    fn a_status_keeps_its_date_until_it_changes() {
        let first = conditions(&good(), &Thresholds::default(), &[]);
        let mut later = good();
        later.at = NOW + Duration::from_secs(60);
        later.memory.as_mut().unwrap().available_bytes = Ok(1);
        let second = conditions(&later, &Thresholds::default(), &first);
        for condition in second {
            let changed = condition.kind == ConditionKind::MemorySufficient;
            let expected = if changed { later.at } else { NOW };
            assert_eq!(condition.since, expected, "{:?}", condition.kind);
        }
    }
}
