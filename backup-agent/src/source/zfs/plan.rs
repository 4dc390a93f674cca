//! How the newest snapshot gets to a copy: full, on top of something, or not at all.
//!
//! Pure. A copy that a receive could only make by destroying something (`zfs receive
//! -F`) is a refusal that says what a person has to decide; nothing here ever rolls
//! back or overwrites.

use super::{
    inventory::{Bookmark, Dataset, Snapshot, value},
    manifest::Link,
    names::{DatasetName, Guid, PREFIX},
};

/// How a snapshot is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// What is sent.
    pub how: How,
    /// Why so, a sentence.
    pub because: String,
}

/// What is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// The copy is there already.
    Nothing,
    /// Everything.
    Full,
    /// What changed since a snapshot of the source.
    SinceSnapshot {
        /// What stands after its `@`.
        name: String,
        /// Its guid.
        guid: Guid,
    },
    /// What changed since a snapshot that only a bookmark remembers.
    SinceBookmark {
        /// What stands after its `#`.
        name: String,
        /// Its guid.
        guid: Guid,
    },
    /// The rest of what was interrupted.
    Resume(Token),
    /// Nothing, before the rest of an interrupted receive of ours is thrown away.
    Discard,
}

impl How {
    /// The snapshot that the stream builds on.
    #[must_use]
    pub const fn from(&self) -> Option<Guid> {
        match self {
            Self::SinceSnapshot { guid, .. } | Self::SinceBookmark { guid, .. } => Some(*guid),
            Self::Resume(token) => token.from,
            Self::Nothing | Self::Full | Self::Discard => None,
        }
    }
}

/// Where an interrupted receive stands, as `zfs send -nvt` explains it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The token itself.
    pub text: String,
    /// The snapshot that it makes.
    pub to: Guid,
    /// The snapshot that it builds on.
    pub from: Option<Guid>,
    /// Full name of the snapshot at the source.
    pub name: String,
    /// Bytes that are there already.
    pub bytes: u64,
}

impl Token {
    /// Reads what `zfs send -nvt TOKEN` printed.
    #[must_use]
    pub fn explain(text: &str, explained: &str) -> Option<Self> {
        let field = |key: &str| {
            let line = explained.lines().map(str::trim).find_map(|line| {
                let (name, value) = line.split_once('=')?;
                (name.trim() == key).then(|| value.trim())
            });
            line.map(str::to_owned)
        };
        let number = |key: &str| {
            let value = field(key)?;
            match value.strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16).ok(),
                None => value.parse().ok(),
            }
        };
        Some(Self {
            text: text.to_owned(),
            to: Guid(number("toguid")?),
            from: number("fromguid").filter(|it| *it != 0).map(Guid),
            name: field("toname")?,
            bytes: number("bytes").unwrap_or(0),
        })
    }
}

/// Why a copy cannot be brought up to date without a person.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is something else.
    #[error(
        "`{replica}` exists and holds no snapshot, so it is no copy of `{dataset}`; name a dataset \
         that does not exist as replica, or destroy this one yourself"
    )]
    NoCopy {
        /// The dataset.
        dataset: DatasetName,
        /// The replica.
        replica: DatasetName,
    },
    /// Nothing in common.
    #[error(
        "`{replica}` and `{dataset}` have no snapshot in common; keep the old copy aside with `zfs \
         rename {replica} {replica}-old`, and the next run makes a new one"
    )]
    NoCommonBase {
        /// The dataset.
        dataset: DatasetName,
        /// The replica.
        replica: DatasetName,
    },
    /// The copy went its own way.
    #[error(
        "`{replica}` has {} snapshots that `{dataset}` does not know, made after the last common \
         one ({}); look at them, then `zfs rollback -r {replica}@{base}` removes them",
        newer.len(), newer.join(", ")
    )]
    NewerOnReplica {
        /// The dataset.
        dataset: DatasetName,
        /// The replica.
        replica: DatasetName,
        /// The last common snapshot, by its name on the replica.
        base: String,
        /// The later ones, at most [`NEWER_SHOWN_MAX`].
        newer: Vec<String>,
    },
    /// The copy was written to.
    #[error(
        "{bytes} bytes of `{replica}` were written since its last snapshot; look at them with `zfs \
         diff {replica}@{base}`, then `zfs rollback {replica}@{base}` takes them back, and `zfs \
         set readonly=on {replica}` keeps it from happening again"
    )]
    Modified {
        /// The replica.
        replica: DatasetName,
        /// Its last snapshot.
        base: String,
        /// How much.
        bytes: u64,
    },
    /// An interrupted receive belongs to nobody here.
    #[error(
        "`{replica}` holds half of `{name}`, which is not at the source any more; if nobody else is \
         sending there, `zfs receive -A {replica}` throws that half away"
    )]
    ForeignToken {
        /// The replica.
        replica: DatasetName,
        /// What was being sent.
        name: String,
    },
    /// Encrypted at one side only.
    #[error(
        "`{dataset}` is {}, its copy `{replica}` is {}; raw and plain streams do not mix: name \
         another replica, so that a new copy is made", shown(*source_encrypted), shown(!*source_encrypted)
    )]
    OtherEncryption {
        /// The dataset.
        dataset: DatasetName,
        /// The replica.
        replica: DatasetName,
        /// Whether the source is encrypted.
        source_encrypted: bool,
    },
}

fn shown(encrypted: bool) -> &'static str {
    if encrypted { "encrypted" } else { "not encrypted" }
}

/// Snapshots of a replica that a refusal names.
pub const NEWER_SHOWN_MAX: usize = 5;

/// A copy in another pool, as it is now.
#[derive(Clone, Debug)]
pub struct Replica {
    /// The dataset.
    pub dataset: Dataset,
    /// An interrupted receive; `Err` holds the token that could not be explained,
    /// because what it would send is gone.
    pub token: Option<Result<Token, String>>,
}

/// How the snapshot `to` of `source` gets to `replica`; none is there yet when absent.
///
/// # Errors
///
/// Why a person has to decide.
pub fn replicate(
    source: &Dataset,
    to: &Snapshot,
    replica: Option<&Replica>,
) -> Result<Transfer, Refusal> {
    let Some(replica) = replica else { return Ok(full("there is no copy yet")) };
    if let Some(token) = &replica.token {
        return resume(source, &replica.dataset, token);
    }
    let copy = &replica.dataset;
    let Some(last) = copy.snapshots.last() else {
        return Err(Refusal::NoCopy { dataset: source.name.clone(), replica: copy.name.clone() });
    };
    let knows = |guid| source.by_guid(guid).is_some() || source.mark_of(guid).is_some();
    let Some(common) = copy.snapshots.iter().rev().find(|it| knows(it.guid)) else {
        let (dataset, replica) = (source.name.clone(), copy.name.clone());
        return Err(Refusal::NoCommonBase { dataset, replica });
    };
    if common.guid != last.guid {
        let newer = copy.snapshots.iter().filter(|it| it.createtxg > common.createtxg);
        return Err(Refusal::NewerOnReplica {
            dataset: source.name.clone(),
            replica: copy.name.clone(),
            base: common.name.clone(),
            newer: newer.map(|it| it.name.clone()).take(NEWER_SHOWN_MAX).collect(),
        });
    }
    if common.guid == to.guid {
        let because = format!("the copy ends with @{} already", common.name);
        return Ok(Transfer { how: How::Nothing, because });
    }
    let written = value(&copy.properties, "written").and_then(|value| value.parse().ok());
    if let Some(bytes @ 1..) = written {
        let (replica, base) = (copy.name.clone(), last.name.clone());
        return Err(Refusal::Modified { replica, base, bytes });
    }
    let source_encrypted = source.encryption().is_some();
    if value(&copy.properties, "encryption").is_some()
        && copy.encryption().is_some() != source_encrypted
    {
        let (dataset, replica) = (source.name.clone(), copy.name.clone());
        return Err(Refusal::OtherEncryption { dataset, replica, source_encrypted });
    }
    since(source, to, common.guid).ok_or_else(|| Refusal::NoCommonBase {
        dataset: source.name.clone(),
        replica: copy.name.clone(),
    })
}

fn resume(
    source: &Dataset,
    copy: &Dataset,
    token: &Result<Token, String>,
) -> Result<Transfer, Refusal> {
    let foreign =
        |name: &str| Refusal::ForeignToken { replica: copy.name.clone(), name: name.to_owned() };
    match token {
        Ok(token) if source.by_guid(token.to).is_some() => Ok(Transfer {
            because: format!("{} bytes of `{}` are there already", token.bytes, token.name),
            how: How::Resume(token.clone()),
        }),
        Ok(token) => match token.name.split_once('@') {
            Some((dataset, name))
                if dataset == source.name.as_str() && name.starts_with(PREFIX) =>
            {
                let because = format!("`{}`, half of which is there, is gone", token.name);
                Ok(Transfer { how: How::Discard, because })
            }
            _ => Err(foreign(&token.name)),
        },
        Err(_) => Err(foreign("something")),
    }
}

/// How the snapshot `to` of `source` gets into the archive, whose streams so far are
/// `links`, newest first.
#[must_use]
pub fn archive(source: &Dataset, to: &Snapshot, links: &[Link], rules: &ArchiveRules) -> Transfer {
    let Some(newest) = links.first() else { return full("it is the first one") };
    let Some(chain) = chain(links, newest) else {
        return full("an earlier stream that the newest one builds on is gone");
    };
    if newest.dataset != source.guid {
        return full("the dataset was destroyed and made again");
    }
    if newest.options != rules.options {
        return full("the options of the stream changed");
    }
    let most = usize::try_from(rules.full_every).unwrap_or(usize::MAX);
    if chain.len() >= most {
        return full(&format!("{} streams build on each other", chain.len()));
    }
    let gone = || full(&format!("snapshot {} is not at the source any more", newest.to));
    since(source, to, newest.to).unwrap_or_else(gone)
}

/// What an archive must keep to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveRules {
    /// A chain gets no longer than this many streams.
    pub full_every: u32,
    /// Options of `zfs send`: a chain keeps to the same ones.
    pub options: String,
}

/// The streams that must be received for `link`, in order, itself included; `None`
/// when one is missing. `links` are newest first.
#[must_use]
pub fn chain<'l>(links: &'l [Link], link: &'l Link) -> Option<Vec<&'l Link>> {
    let mut chain = vec![link];
    let mut first = link;
    while let Some(from) = first.from {
        // Each step goes to an older link, so that a circle cannot be walked.
        let at = links.iter().position(|it| std::ptr::eq(it, first) || it == first)?;
        first = links[at + 1..].iter().find(|it| it.to == from && it.dataset == link.dataset)?;
        chain.push(first);
    }
    chain.reverse();
    Some(chain)
}

fn since(source: &Dataset, to: &Snapshot, base: Guid) -> Option<Transfer> {
    if let Some(Snapshot { name, guid, createtxg, .. }) = source.by_guid(base)
        && *createtxg < to.createtxg
    {
        let how = How::SinceSnapshot { name: name.clone(), guid: *guid };
        return Some(Transfer { how, because: format!("@{name} is at both sides") });
    }
    let Bookmark { name, guid, createtxg } = source.mark_of(base)?;
    (*createtxg < to.createtxg).then(|| Transfer {
        how: How::SinceBookmark { name: name.clone(), guid: *guid },
        because: format!("the copy ends with what bookmark #{name} remembers"),
    })
}

fn full(because: &str) -> Transfer {
    Transfer { how: How::Full, because: because.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::zfs::inventory::Property;
    use jiff::Timestamp;

    fn name(text: &str) -> DatasetName {
        text.parse().expect("a name")
    }

    /// Snapshots are numbered: the number is guid and name, its place the order.
    fn dataset(text: &str, snapshots: &[u64], bookmarks: &[u64]) -> Dataset {
        let snapshot = |(txg, number): (usize, &u64)| Snapshot {
            name: format!("{PREFIX}{number}"),
            guid: Guid(*number),
            createtxg: txg as u64 + 10,
            creation: Timestamp::UNIX_EPOCH,
            holds: 0,
            referenced_bytes: 0,
            used_bytes: 0,
            owner: None,
        };
        let bookmark = |(txg, number): (usize, &u64)| Bookmark {
            name: format!("{PREFIX}{number}"),
            guid: Guid(*number),
            createtxg: txg as u64 + 1,
        };
        Dataset {
            name: name(text),
            guid: Guid(1000),
            properties: Default::default(),
            snapshots: snapshots.iter().enumerate().map(snapshot).collect(),
            bookmarks: bookmarks.iter().enumerate().map(bookmark).collect(),
            children: Vec::new(),
        }
    }

    fn to(source: &Dataset) -> &Snapshot {
        source.snapshots.last().expect("a snapshot")
    }

    fn replica(snapshots: &[u64]) -> Replica {
        Replica { dataset: dataset("safe/vault", snapshots, &[]), token: None }
    }

    fn with(mut replica: Replica, property: &str, value: &str) -> Replica {
        let entry = Property { value: value.to_owned(), source: "-".to_owned() };
        replica.dataset.properties.insert(property.to_owned(), entry);
        replica
    }

    fn refusal(source: &Dataset, replica: &Replica) -> String {
        replicate(source, to(source), Some(replica)).expect_err("a refusal").to_string()
    }

    #[test]
    fn the_first_copy_is_full() {
        let source = dataset("tank/vault", &[1, 2], &[]);
        let transfer = replicate(&source, to(&source), None).expect("a plan");
        assert_eq!(transfer.how, How::Full);
    }

    #[test]
    fn the_newest_common_snapshot_is_the_base() {
        let source = dataset("tank/vault", &[1, 2, 3], &[]);
        let transfer = replicate(&source, to(&source), Some(&replica(&[1, 2]))).expect("a plan");
        assert_eq!(transfer.how.from(), Some(Guid(2)));
        assert_eq!(transfer.because, "@homelab-2 is at both sides");
    }

    #[test]
    fn a_bookmark_stands_in_for_a_base_that_was_destroyed() {
        let source = dataset("tank/vault", &[3], &[1, 2]);
        let transfer = replicate(&source, to(&source), Some(&replica(&[1, 2]))).expect("a plan");
        let bookmark = How::SinceBookmark { name: "homelab-2".into(), guid: Guid(2) };
        assert_eq!(transfer.how, bookmark);
    }

    #[test]
    fn a_copy_that_is_up_to_date_gets_nothing() {
        let source = dataset("tank/vault", &[1, 2], &[]);
        let transfer = replicate(&source, to(&source), Some(&replica(&[1, 2]))).expect("a plan");
        assert_eq!(transfer.how, How::Nothing);
    }

    #[test]
    fn without_a_common_base_a_person_is_asked() {
        let source = dataset("tank/vault", &[3], &[]);
        let said = refusal(&source, &replica(&[1, 2]));
        assert!(said.contains("zfs rename safe/vault safe/vault-old"), "{said}");
    }

    #[test]
    fn an_empty_dataset_of_that_name_is_not_taken_for_a_copy() {
        let said = refusal(&dataset("tank/vault", &[3], &[]), &replica(&[]));
        assert!(said.contains("is no copy of `tank/vault`"), "{said}");
    }

    #[test]
    fn foreign_snapshots_on_the_copy_are_never_rolled_back() {
        let said = refusal(&dataset("tank/vault", &[1, 3], &[]), &replica(&[1, 70, 71]));
        assert!(said.contains("2 snapshots"), "{said}");
        assert!(said.contains("zfs rollback -r safe/vault@homelab-1"), "{said}");
    }

    #[test]
    fn a_copy_that_was_written_to_is_not_overwritten() {
        let source = dataset("tank/vault", &[1, 3], &[]);
        let said = refusal(&source, &with(replica(&[1]), "written", "8192"));
        assert!(said.contains("8192 bytes") && said.contains("zfs rollback safe/vault@homelab-1"));
        let clean = with(replica(&[1]), "written", "0");
        assert!(replicate(&source, to(&source), Some(&clean)).is_ok());
    }

    #[test]
    fn raw_and_plain_are_not_mixed_in_one_copy() {
        let mut source = dataset("tank/vault", &[1, 3], &[]);
        let entry = Property { value: "aes-256-gcm".into(), source: "-".into() };
        source.properties.insert("encryption".into(), entry);
        let said = refusal(&source, &with(replica(&[1]), "encryption", "off"));
        assert!(said.contains("`tank/vault` is encrypted"), "{said}");
    }

    const EXPLAINED: &str = "\
resume token contents:
nvlist version: 0
\tobject = 0x2
\toffset = 0x1340000
\tbytes = 0x134e2c8
\ttoguid = 0x3
\tfromguid = 0x1
\ttoname = tank/vault@homelab-3
\tcompressok = 1
";

    #[test]
    fn an_interrupted_copy_goes_on_where_it_stopped() {
        let source = dataset("tank/vault", &[1, 3, 4], &[]);
        let token = Token::explain("1-abc", EXPLAINED).expect("a token");
        assert_eq!((token.to, token.from, token.bytes), (Guid(3), Some(Guid(1)), 0x134_e2c8));
        let half = Replica { token: Some(Ok(token.clone())), ..replica(&[1]) };
        let transfer = replicate(&source, to(&source), Some(&half)).expect("a plan");
        assert_eq!(transfer.how, How::Resume(token));
    }

    #[test]
    fn half_of_a_snapshot_that_is_gone_is_thrown_away_only_if_it_is_ours() {
        let source = dataset("tank/vault", &[1, 4], &[]);
        let ours = Token::explain("1-abc", EXPLAINED).expect("a token");
        let mut half = Replica { token: Some(Ok(ours.clone())), ..replica(&[1]) };
        let transfer = replicate(&source, to(&source), Some(&half)).expect("a plan");
        assert_eq!(transfer.how, How::Discard);
        half.token = Some(Ok(Token { name: "tank/vault@autosnap_1".into(), ..ours }));
        assert!(refusal(&source, &half).contains("zfs receive -A safe/vault"));
        half.token = Some(Err("1-abc".into()));
        assert!(refusal(&source, &half).contains("zfs receive -A safe/vault"));
    }

    fn link(number: u64, from: Option<u64>) -> Link {
        Link {
            run: uuid::Uuid::from_u128(number.into()).into(),
            dataset: Guid(1000),
            to: Guid(number),
            from: from.map(Guid),
            options: "-L".into(),
        }
    }

    fn rules(full_every: u32) -> ArchiveRules {
        ArchiveRules { full_every, options: "-L".into() }
    }

    #[test]
    fn an_archive_grows_by_increments_until_the_chain_is_long_enough() {
        let source = dataset("tank/vault", &[1, 2, 3, 4], &[]);
        let links = [link(3, Some(2)), link(2, Some(1)), link(1, None)];
        let transfer = archive(&source, to(&source), &links, &rules(4));
        assert_eq!(transfer.how.from(), Some(Guid(3)));
        let transfer = archive(&source, to(&source), &links, &rules(3));
        assert_eq!(transfer.how, How::Full);
        assert_eq!(transfer.because, "3 streams build on each other");
    }

    #[test]
    fn an_archive_starts_anew_whenever_its_chain_is_in_doubt() {
        let source = dataset("tank/vault", &[1, 2, 3, 4], &[]);
        let whole = [link(3, Some(1)), link(1, None)];
        for (links, rules, dataset) in [
            (vec![link(3, Some(2)), link(1, None)], rules(9), Guid(1000)),
            (whole.to_vec(), ArchiveRules { options: "-w".into(), ..rules(9) }, Guid(1000)),
            (whole.to_vec(), rules(9), Guid(1001)),
            (vec![link(99, Some(1)), link(1, None)], rules(9), Guid(1000)),
            (Vec::new(), rules(9), Guid(1000)),
        ] {
            let source = Dataset { guid: dataset, ..source.clone() };
            let transfer = archive(&source, to(&source), &links, &rules);
            assert_eq!(transfer.how, How::Full, "{}", transfer.because);
        }
    }

    #[test]
    fn a_chain_is_given_in_the_order_of_its_restore() {
        let links = [link(4, Some(2)), link(3, None), link(2, Some(1)), link(1, None)];
        let chain = chain(&links, &links[0]).expect("a chain");
        let order: Vec<u64> = chain.iter().map(|link| link.to.0).collect();
        assert_eq!(order, [1, 2, 4]);
    }
}
