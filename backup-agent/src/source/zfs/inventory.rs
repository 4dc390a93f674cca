//! What a dataset is, and which snapshots and bookmarks it has.
//!
//! Read with one `zfs get -Hp -d 1`, which prints exact numbers in every version of
//! ZFS there is; `zfs list -p` came later. A user property counts as set on a
//! snapshot only when it was set *there*: user properties are inherited, so that a
//! mark on a dataset would otherwise make each of its snapshots look like ours.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::names::{DatasetName, Guid, PREFIX};

/// The user property that holds the run that made a snapshot or a scratch dataset.
pub const RUN_PROPERTY: &str = "homelab:run";
/// The user property that holds the backup whose policy a snapshot follows.
pub const BACKUP_PROPERTY: &str = "homelab:backup";

/// What is asked for of everything; what one version lacks is left out.
pub const PROPERTIES: [&str; 18] = [
    "type",
    "guid",
    "createtxg",
    "creation",
    "used",
    "referenced",
    "userrefs",
    "mountpoint",
    "mounted",
    "written",
    "encryption",
    "encryptionroot",
    "keystatus",
    "volsize",
    "readonly",
    "receive_resume_token",
    RUN_PROPERTY,
    BACKUP_PROPERTY,
];

/// A value, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    /// Exact, as `-p` prints it.
    pub value: String,
    /// `local`, `received`, `default`, `inherited from …`, or `-`.
    pub source: String,
}

/// Everything that was said about one name.
pub type Properties = BTreeMap<String, Property>;

/// A filesystem or volume with what hangs on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// Its name.
    pub name: DatasetName,
    /// Its own guid: another after it was destroyed and made again.
    pub guid: Guid,
    /// Its properties.
    pub properties: Properties,
    /// Its snapshots, oldest first.
    pub snapshots: Vec<Snapshot>,
    /// Its bookmarks, oldest first.
    pub bookmarks: Vec<Bookmark>,
    /// Datasets directly below it.
    pub children: Vec<String>,
}

/// One snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// What stands after the `@`.
    pub name: String,
    /// Its guid.
    pub guid: Guid,
    /// Transaction group that made it: the true order, whatever the clock said.
    pub createtxg: u64,
    /// When it was made, by the clock of that host.
    pub creation: Timestamp,
    /// How many holds keep it.
    pub holds: u64,
    /// Bytes that it shows.
    pub referenced_bytes: u64,
    /// Bytes that only it keeps.
    pub used_bytes: u64,
    /// The backup and run that made it, if that was us.
    pub owner: Option<Owner>,
}

/// Who made a snapshot: our name prefix *and* our mark, set on the snapshot itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The run.
    pub run: String,
    /// The backup.
    pub backup: String,
}

/// The memory of a snapshot: enough to send what came after it, and next to no room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bookmark {
    /// What stands after the `#`.
    pub name: String,
    /// Guid of the snapshot.
    pub guid: Guid,
    /// Transaction group of the snapshot.
    pub createtxg: u64,
}

/// What was printed is not understood.
#[derive(Debug, thiserror::Error)]
#[error("`zfs get` said `{line}`: {what}")]
pub struct InvalidInventory {
    /// The line or name.
    pub line: String,
    /// What is wrong with it.
    pub what: &'static str,
}

impl Dataset {
    /// Reads what `zfs get -Hp -d 1 -o name,property,value,source … NAME` printed.
    ///
    /// # Errors
    ///
    /// A line of another form, or nothing about `name` itself.
    pub fn parse(name: &DatasetName, text: &str) -> Result<Self, InvalidInventory> {
        let rows = rows(text)?;
        let (mut snapshots, mut bookmarks, mut children) = (Vec::new(), Vec::new(), Vec::new());
        for (full, properties) in &rows {
            if let Some((dataset, snapshot)) = full.split_once('@') {
                if dataset == name.as_str() {
                    snapshots.push(snapshot_of(full, snapshot, properties)?);
                }
            } else if let Some((dataset, bookmark)) = full.split_once('#') {
                if dataset == name.as_str() {
                    let (guid, createtxg) = identity(full, properties)?;
                    bookmarks.push(Bookmark { name: bookmark.to_owned(), guid, createtxg });
                }
            } else if full != name.as_str() {
                children.push(full.clone());
            }
        }
        snapshots.sort_by_key(|snapshot| snapshot.createtxg);
        bookmarks.sort_by_key(|bookmark| bookmark.createtxg);
        let Some(properties) = rows.get(name.as_str()) else {
            return Err(invalid(name.as_str(), "nothing about the dataset itself"));
        };
        let guid = Guid(number(name.as_str(), properties, "guid")?);
        let properties = properties.clone();
        Ok(Self { name: name.clone(), guid, properties, snapshots, bookmarks, children })
    }

    /// The value of a property, unless it has none.
    #[must_use]
    pub fn value(&self, property: &str) -> Option<&str> {
        value(&self.properties, property)
    }

    /// The way it is encrypted, if it is.
    #[must_use]
    pub fn encryption(&self) -> Option<&str> {
        self.value("encryption").filter(|value| *value != "off")
    }

    /// Whether it is a block device.
    #[must_use]
    pub fn is_volume(&self) -> bool {
        self.value("type") == Some("volume")
    }

    /// The snapshot with this guid.
    #[must_use]
    pub fn by_guid(&self, guid: Guid) -> Option<&Snapshot> {
        self.snapshots.iter().find(|snapshot| snapshot.guid == guid)
    }

    /// The bookmark of the snapshot with this guid.
    #[must_use]
    pub fn mark_of(&self, guid: Guid) -> Option<&Bookmark> {
        self.bookmarks.iter().find(|bookmark| bookmark.guid == guid)
    }

    /// The snapshot that a run made.
    #[must_use]
    pub fn by_run(&self, run: &str) -> Option<&Snapshot> {
        let is_of = |snapshot: &&Snapshot| snapshot.owner.as_ref().is_some_and(|o| o.run == run);
        self.snapshots.iter().find(is_of)
    }
}

/// Lines of `name`, `property`, `value`, `source`, gathered by name.
///
/// # Errors
///
/// A line of another form.
pub fn rows(text: &str) -> Result<BTreeMap<String, Properties>, InvalidInventory> {
    let mut rows: BTreeMap<String, Properties> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [name, property, value, source] = fields[..] else {
            return Err(invalid(line, "expected name, property, value and source"));
        };
        let property = property.to_owned();
        let entry = Property { value: value.to_owned(), source: source.to_owned() };
        rows.entry(name.to_owned()).or_default().insert(property, entry);
    }
    Ok(rows)
}

/// The value of a property, unless it has none.
#[must_use]
pub fn value<'p>(properties: &'p Properties, property: &str) -> Option<&'p str> {
    properties.get(property).map(|it| it.value.as_str()).filter(|value| !matches!(*value, "-" | ""))
}

/// The value of a user property that was set on this very thing.
#[must_use]
pub fn own_mark<'p>(properties: &'p Properties, property: &str) -> Option<&'p str> {
    let set =
        properties.get(property).filter(|it| matches!(it.source.as_str(), "local" | "received"));
    set.map(|it| it.value.as_str())
}

fn snapshot_of(
    full: &str,
    name: &str,
    properties: &Properties,
) -> Result<Snapshot, InvalidInventory> {
    let (guid, createtxg) = identity(full, properties)?;
    let seconds = number(full, properties, "creation")?;
    let creation = i64::try_from(seconds).ok().and_then(|it| Timestamp::from_second(it).ok());
    let mark = |property| own_mark(properties, property).map(str::to_owned);
    let ours = name.starts_with(PREFIX);
    let owner = mark(RUN_PROPERTY).zip(mark(BACKUP_PROPERTY)).filter(|_| ours);
    Ok(Snapshot {
        name: name.to_owned(),
        guid,
        createtxg,
        creation: creation.ok_or_else(|| invalid(full, "`creation` is no time"))?,
        // What is not said counts as held: nothing is destroyed on a guess.
        holds: number(full, properties, "userrefs").unwrap_or(1),
        referenced_bytes: number(full, properties, "referenced")?,
        used_bytes: number(full, properties, "used")?,
        owner: owner.map(|(run, backup)| Owner { run, backup }),
    })
}

fn identity(full: &str, properties: &Properties) -> Result<(Guid, u64), InvalidInventory> {
    let guid = Guid(number(full, properties, "guid")?);
    Ok((guid, number(full, properties, "createtxg")?))
}

fn number(
    full: &str,
    properties: &Properties,
    property: &'static str,
) -> Result<u64, InvalidInventory> {
    let number = value(properties, property).and_then(|value| value.parse().ok());
    number.ok_or_else(|| InvalidInventory { line: full.to_owned(), what: missing(property) })
}

fn missing(property: &str) -> &'static str {
    match property {
        "guid" => "`guid` is no number",
        "createtxg" => "`createtxg` is no number",
        "creation" => "`creation` is no number",
        "referenced" => "`referenced` is no number",
        "used" => "`used` is no number",
        _ => "a number is missing",
    }
}

fn invalid(line: &str, what: &'static str) -> InvalidInventory {
    InvalidInventory { line: line.to_owned(), what }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As OpenZFS 2.3 prints it: exact numbers, tabs, `-` for what there is not.
    const TEXT: &str = "\
tank/vault\ttype\tfilesystem\t-
tank/vault\tguid\t5903537273345471240\t-
tank/vault\tcreatetxg\t8\t-
tank/vault\tencryption\taes-256-gcm\t-
tank/vault\thomelab:run\tby-hand\tlocal
tank/vault/child\ttype\tfilesystem\t-
tank/vault/child\tguid\t1\t-
tank/vault@homelab-20261123T080000Z-vault\tguid\t5059524850814190479\t-
tank/vault@homelab-20261123T080000Z-vault\tcreatetxg\t21\t-
tank/vault@homelab-20261123T080000Z-vault\tcreation\t1795403759\t-
tank/vault@homelab-20261123T080000Z-vault\tused\t0\t-
tank/vault@homelab-20261123T080000Z-vault\treferenced\t41996288\t-
tank/vault@homelab-20261123T080000Z-vault\tuserrefs\t1\t-
tank/vault@homelab-20261123T080000Z-vault\thomelab:run\t0190a5de\tlocal
tank/vault@homelab-20261123T080000Z-vault\thomelab:backup\tvault\tlocal
tank/vault@homelab-by-hand\tguid\t7\t-
tank/vault@homelab-by-hand\tcreatetxg\t19\t-
tank/vault@homelab-by-hand\tcreation\t1795403700\t-
tank/vault@homelab-by-hand\tused\t4096\t-
tank/vault@homelab-by-hand\treferenced\t41996288\t-
tank/vault@homelab-by-hand\tuserrefs\t0\t-
tank/vault@homelab-by-hand\thomelab:run\tby-hand\tinherited from tank/vault
tank/vault@homelab-by-hand\thomelab:backup\t-\t-
tank/vault#homelab-old\tguid\t99\t-
tank/vault#homelab-old\tcreatetxg\t11\t-
";

    fn dataset() -> Dataset {
        Dataset::parse(&"tank/vault".parse().expect("a name"), TEXT).expect("an inventory")
    }

    #[test]
    fn snapshots_come_in_the_order_of_their_transaction_groups() {
        let names: Vec<String> = dataset().snapshots.into_iter().map(|it| it.name).collect();
        assert_eq!(names, ["homelab-by-hand", "homelab-20261123T080000Z-vault"]);
    }

    #[test]
    fn a_mark_that_is_only_inherited_makes_nothing_ours() {
        let dataset = dataset();
        assert_eq!(dataset.snapshots[0].owner, None);
        let owner = dataset.snapshots[1].owner.as_ref().expect("an owner");
        assert_eq!((owner.run.as_str(), owner.backup.as_str()), ("0190a5de", "vault"));
    }

    #[test]
    fn bookmarks_and_children_are_told_from_snapshots() {
        let dataset = dataset();
        assert_eq!(dataset.mark_of(Guid(99)).expect("a bookmark").name, "homelab-old");
        assert_eq!(dataset.children, ["tank/vault/child"]);
        assert_eq!(dataset.encryption(), Some("aes-256-gcm"));
    }

    #[test]
    fn rounded_numbers_are_refused_and_not_guessed_at() {
        let text = TEXT.replace("5059524850814190479", "5.06E");
        let error = Dataset::parse(&"tank/vault".parse().expect("a name"), &text);
        assert!(error.expect_err("rounded").to_string().contains("`guid` is no number"));
    }
}
