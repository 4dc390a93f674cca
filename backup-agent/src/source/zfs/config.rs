//! The configuration of ZFS sources and of places to drill in.

use std::{fmt, path::PathBuf, time::Duration};

use homelab_common::config::{Allowed, Section, Value, parse};

use super::{keep::Policy, names::DatasetName, program::PROGRAM};

/// A day and a night: the first copy of a large pool over a gigabit.
const TRANSFER_MAX: Duration = Duration::from_secs(24 * 3600);

/// A month of days.
const FULL_EVERY: u32 = 30;

/// A dataset to back up.
#[derive(Clone, Debug)]
pub struct ZfsConfig {
    /// The dataset.
    pub dataset: DatasetName,
    /// The program.
    pub program: String,
    /// How many of its snapshots stay on the dataset itself.
    pub keep: Policy,
    /// Whether streams go into the repository, and how many build on a full one.
    pub full_every: Option<u32>,
    /// The copy in another pool.
    pub replica: Option<ReplicaConfig>,
    /// Whether the files of each snapshot are counted, for the drill to compare.
    pub count_files: bool,
    /// A stream that takes longer is ended.
    pub transfer_max: Duration,
}

/// A copy in another pool.
#[derive(Clone, Debug)]
pub struct ReplicaConfig {
    /// The dataset that it becomes.
    pub dataset: DatasetName,
    /// The words that reach another host.
    pub over: Vec<String>,
    /// The program there.
    pub program: String,
    /// How many snapshots stay on the copy.
    pub keep: Policy,
}

impl ZfsConfig {
    /// Reads the keys of a `[[backup]]`; problems go into the report.
    #[must_use]
    pub fn read(section: &Section<'_>) -> Option<Self> {
        let dataset = section.required("dataset", dataset);
        let program = section.or("program", PROGRAM.to_owned(), parse::string);
        let keep = policy(&section.table("keep"), Policy::default());
        let replica = replica(section, keep);
        let archive = section.or("archive", replica.is_none(), parse::bool);
        let full_every = section.or("full-every", FULL_EVERY, parse::integer(1..=1000));
        let count_files = section.or("count-files", false, parse::bool);
        let transfer_max = section.or("transfer-max", TRANSFER_MAX, parse::duration);
        if !archive && !section.has("replica") {
            section.problem("archive", "true, where no `replica` is given");
        }
        let full_every = archive.then_some(full_every);
        let dataset = dataset?;
        if let Some(ReplicaConfig { dataset: copy, over, .. }) = &replica
            && over.is_empty()
            && (*copy == dataset || copy.is_below(&dataset) || dataset.is_below(copy))
        {
            section.problem("replica", format!("a dataset outside of `{dataset}`"));
        }
        Some(Self { dataset, program, keep, full_every, replica, count_files, transfer_max })
    }
}

fn replica(section: &Section<'_>, keep: Policy) -> Option<ReplicaConfig> {
    let copy = section.optional("replica", dataset);
    let over = section.list("replica-over", parse::string);
    let program = section.or("replica-program", PROGRAM.to_owned(), parse::string);
    let keep = policy(&section.table("replica-keep"), keep);
    if copy.is_none() && !section.has("replica") {
        for key in ["replica-over", "replica-program", "replica-keep"] {
            if section.has(key) {
                section.problem(key, "left out, where there is no `replica`");
            }
        }
    }
    Some(ReplicaConfig { dataset: copy?, over, program, keep })
}

/// A `keep` table.
fn policy(section: &Section<'_>, default: Policy) -> Policy {
    let count = |key, default| section.or(key, default, parse::integer(0..=10_000));
    Policy {
        hourly: count("hourly", default.hourly),
        daily: count("daily", default.daily),
        weekly: count("weekly", default.weekly),
        monthly: count("monthly", default.monthly),
    }
}

fn dataset(value: &Value<'_>) -> Result<DatasetName, Allowed> {
    parse::text(str::parse::<DatasetName>)(value)
}

impl fmt::Display for ZfsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "dataset = \"{}\"\nprogram = \"{}\"", self.dataset, self.program)?;
        writeln!(f, "archive = {}", self.full_every.is_some())?;
        if let Some(full_every) = self.full_every {
            writeln!(f, "full-every = {full_every}")?;
        }
        writeln!(f, "count-files = {}", self.count_files)?;
        writeln!(f, "transfer-max = \"{}\"", parse::show_duration(self.transfer_max))?;
        writeln!(f, "keep = {}", self.keep)?;
        let Some(ReplicaConfig { dataset, over, program, keep }) = &self.replica else {
            return Ok(());
        };
        writeln!(f, "replica = \"{dataset}\"\nreplica-program = \"{program}\"")?;
        writeln!(f, "replica-over = {over:?}\nreplica-keep = {keep}")
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hourly, daily, weekly, monthly } = self;
        write!(
            f,
            "{{ hourly = {hourly}, daily = {daily}, weekly = {weekly}, monthly = {monthly} }}"
        )
    }
}

/// A place for scratch datasets.
#[derive(Clone, Debug)]
pub struct ZfsPlaceConfig {
    /// The dataset below which they are made.
    pub parent: DatasetName,
    /// The program.
    pub program: String,
    /// The folder below which they are mounted to count their files.
    pub mount_below: Option<PathBuf>,
    /// Whatever takes longer is ended.
    pub transfer_max: Duration,
}

impl ZfsPlaceConfig {
    /// Reads the keys of a `[[drill-target]]`; problems go into the report.
    #[must_use]
    pub fn read(section: &Section<'_>) -> Option<Self> {
        let parent = section.required("parent", dataset);
        let program = section.or("program", PROGRAM.to_owned(), parse::string);
        let mount_below = section.optional("mount-below", parse::path);
        let transfer_max = section.or("transfer-max", TRANSFER_MAX, parse::duration);
        Some(Self { parent: parent?, program, mount_below, transfer_max })
    }
}

impl fmt::Display for ZfsPlaceConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "parent = \"{}\"\nprogram = \"{}\"", self.parent, self.program)?;
        if let Some(path) = &self.mount_below {
            writeln!(f, "mount-below = \"{}\"", path.display())?;
        }
        writeln!(f, "transfer-max = \"{}\"", parse::show_duration(self.transfer_max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use homelab_common::config::Document;

    fn read(text: &str) -> Result<Option<ZfsConfig>, String> {
        let document = Document::parse("x.toml", text).map_err(|report| report.to_string())?;
        let config = ZfsConfig::read(&document.root());
        document.finish().map_err(|report| report.to_string())?;
        Ok(config)
    }

    #[test]
    fn what_is_printed_reads_back_the_same() {
        let text = "dataset = \"tank/vault\"\nreplica = \"safe/vault\"\narchive = true\n\
                    replica-over = [\"ssh\", \"nas\"]\nkeep = { hourly = 3 }\n";
        let config = read(text).expect("valid").expect("a configuration");
        assert_eq!((config.keep.hourly, config.keep.daily), (3, 7));
        let printed = config.to_string();
        let again = read(&printed).expect("valid").expect("a configuration");
        assert_eq!(again.to_string(), printed);
    }

    #[test]
    fn streams_go_into_the_repository_unless_there_is_a_replica() {
        let config = read("dataset = \"tank/vault\"\n").expect("valid").expect("a configuration");
        assert_eq!(config.full_every, Some(FULL_EVERY));
        let text = "dataset = \"tank/vault\"\nreplica = \"safe/vault\"\n";
        assert_eq!(read(text).expect("valid").expect("a configuration").full_every, None);
    }

    #[test]
    fn a_copy_inside_of_what_it_copies_is_refused() {
        for replica in ["tank/vault/copy", "tank/vault", "tank"] {
            let text = format!("dataset = \"tank/vault\"\nreplica = \"{replica}\"\n");
            let report = read(&text).expect_err("refused");
            assert!(report.contains("outside of `tank/vault`"), "{report}");
        }
    }
}
