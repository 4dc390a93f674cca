//! `/etc/homelab/backup-agent.toml`.

use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use homelab_common::{
    config::{Allowed, Document, Report, Section, Value, parse},
    secret::Source as SecretSource,
};
use homelab_rpc::{daemon::DaemonConfig, peer::Kind};
use uuid::Uuid;

use crate::{
    agent::Whereabouts,
    ids::Name,
    repository::{
        SourceKind,
        identity::MountRule,
        mount::NETWORK_FILESYSTEMS,
        sftp::{Address, Login},
        storage::access::Access,
    },
    source::{
        files::config::FilesConfig,
        git::config::GitConfig,
        opnsense::config::OpnsenseConfig,
        postgres::config::{PostgresConfig, ServerConfig, ToolsConfig},
        vaultwarden::config::VaultwardenConfig,
        zfs::config::{ZfsConfig, ZfsPlaceConfig},
    },
};

/// The pinned keys of servers, unless another file is named.
const KNOWN_HOSTS: &str = "/etc/homelab/known_hosts";

/// Where the file stands unless another one is named.
pub const PATH: &str = "/etc/homelab/backup-agent.toml";

/// What `source` may say.
const SOURCES: [(&str, SourceKind); 6] = [
    ("files", SourceKind::Files),
    ("postgres", SourceKind::Postgres),
    ("vaultwarden", SourceKind::Vaultwarden),
    ("git", SourceKind::Git),
    ("opnsense", SourceKind::Opnsense),
    ("zfs", SourceKind::Zfs),
];

/// What `kind` of a drill target may say.
const PLACES: [(&str, PlaceKind); 3] =
    [("postgres", PlaceKind::Postgres), ("folder", PlaceKind::Folder), ("zfs", PlaceKind::Zfs)];

/// A night.
const FOLDER_RUN_MAX: Duration = Duration::from_secs(12 * 3600);

#[derive(Clone, Copy, PartialEq)]
enum PlaceKind {
    Postgres,
    Folder,
    Zfs,
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Sockets, identity, state, log.
    pub daemon: DaemonConfig,
    /// This host's name in snapshots.
    pub host: String,
    /// `[postgres]`.
    pub postgres: ToolsConfig,
    /// `[[repository]]`.
    pub repositories: Vec<RepositoryConfig>,
    /// `[[backup]]`.
    pub backups: Vec<BackupConfig>,
    /// `[[drill-target]]`.
    pub targets: Vec<TargetConfig>,
}

/// One repository.
#[derive(Clone, Debug)]
pub struct RepositoryConfig {
    /// Its name.
    pub name: Name,
    /// Its folder, or the address of its server.
    pub path: PathBuf,
    /// How to reach its server, if it is not a folder.
    pub login: Option<Login>,
    /// What this host may do with it.
    pub access: Access,
    /// Bytes a second that it may take.
    pub bandwidth: Option<u64>,
    /// Its identity.
    pub id: Uuid,
    /// Its password.
    pub password: SecretSource,
    /// What must be mounted.
    pub mount: Option<MountRule>,
    /// Where it stands.
    pub whereabouts: Whereabouts,
}

/// One backup.
#[derive(Clone, Debug)]
pub struct BackupConfig {
    /// Its name.
    pub name: Name,
    /// Where it is stored.
    pub repository: Name,
    /// Where each run is copied to.
    pub copies: Vec<Name>,
    /// What takes a run while the repository is away.
    pub spool: Option<Name>,
    /// What is backed up.
    pub source: SourceConfig,
    /// Where it is drilled.
    pub drill_target: Option<Name>,
}

/// What is backed up, by `source`.
#[derive(Clone, Debug)]
pub enum SourceConfig {
    /// A PostgreSQL database.
    Postgres(PostgresConfig),
    /// Trees of files.
    Files(FilesConfig),
    /// Git repositories.
    Git(Box<GitConfig>),
    /// A firewall.
    Opnsense(Box<OpnsenseConfig>),
    /// A ZFS dataset.
    Zfs(ZfsConfig),
    /// A Vaultwarden.
    Vaultwarden(VaultwardenConfig),
}

/// One place to drill in.
#[derive(Clone, Debug)]
pub struct TargetConfig {
    /// Its name.
    pub name: Name,
    /// What it is.
    pub place: PlaceConfig,
}

/// A place to drill in, by `kind`.
#[derive(Clone, Debug)]
pub enum PlaceConfig {
    /// A server; the database is one to make others from.
    Postgres(ServerConfig),
    /// A folder.
    Folder(FolderConfig),
    /// A dataset, below which others are made.
    Zfs(ZfsPlaceConfig),
}

/// A folder to drill in.
#[derive(Clone, Debug)]
pub struct FolderConfig {
    /// The folder. Everything that a drill makes is below it.
    pub path: PathBuf,
    /// Whatever takes longer is ended.
    pub run_max: Duration,
    /// A Vaultwarden to start on restored data, if it is not where it usually is.
    pub vaultwarden: Option<PathBuf>,
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// Every problem of the file, in one report.
    pub fn load(path: &Path) -> Result<Self, Report> {
        Self::read(&Document::load(path)?)
    }

    /// Takes `text` as the content of `file`, a name for reports.
    ///
    /// # Errors
    ///
    /// As [`Config::load`].
    pub fn parse(file: &str, text: &str) -> Result<Self, Report> {
        Self::read(&Document::parse(file, text)?)
    }

    fn read(document: &Document) -> Result<Self, Report> {
        let root = document.root();
        let daemon = DaemonConfig::read(&root, Kind::BackupAgent);
        let host = root.or("host", host_name(), parse::string);
        let postgres = ToolsConfig::read(&root.table("postgres"));
        let (repositories, targets) = (root.tables("repository"), root.tables("drill-target"));
        let known = Known { repositories: names(&repositories), targets: names(&targets) };
        let repositories: Vec<_> = repositories.iter().map(repository).collect();
        let targets: Vec<_> = targets.iter().map(target).collect();
        let backups: Vec<Option<BackupConfig>> =
            root.tables("backup").iter().map(|section| backup(section, &known)).collect();
        let names = backups.iter().flatten().map(|it| it.name.clone()).collect::<Vec<_>>();
        refuse_repeated(&root, "repository", &known.repositories);
        refuse_repeated(&root, "drill-target", &known.targets);
        refuse_repeated(&root, "backup", &names);
        document.finish_with(|| {
            Some(Self {
                daemon,
                host,
                postgres,
                repositories: repositories.into_iter().collect::<Option<_>>()?,
                backups: backups.into_iter().collect::<Option<_>>()?,
                targets: targets.into_iter().collect::<Option<_>>()?,
            })
        })
    }
}

/// The names that others may refer to, even those of entries that are wrong otherwise:
/// one mistake should not look like two.
struct Known {
    repositories: Vec<Name>,
    targets: Vec<Name>,
}

fn names(sections: &[Section<'_>]) -> Vec<Name> {
    let name = |section: &Section<'_>| section.value("name")?.as_str()?.parse().ok();
    sections.iter().filter_map(name).collect()
}

fn name(value: &Value<'_>) -> Result<Name, Allowed> {
    parse::text(str::parse::<Name>)(value)
}

fn one_of<'k>(known: &'k [Name]) -> impl Fn(&Value<'_>) -> Result<Name, Allowed> + 'k {
    move |value| {
        let name = name(value)?;
        if known.contains(&name) {
            return Ok(name);
        }
        Err(Allowed::one_of(known.iter().map(Name::as_str)))
    }
}

/// A folder, or a server.
enum Place {
    Folder(PathBuf),
    Server(Address),
}

fn place(value: &Value<'_>) -> Result<Place, Allowed> {
    if value.as_str().is_some_and(|text| text.starts_with("sftp:")) {
        return parse::text(str::parse::<Address>)(value).map(Place::Server);
    }
    parse::path(value).map(Place::Folder)
}

fn repository(section: &Section<'_>) -> Option<RepositoryConfig> {
    let name = section.required("name", name);
    let place = section.required("path", place);
    let access = section.or("access", Access::Full, parse::word(&Access::WORDS));
    let bandwidth = section.optional("bandwidth", parse::bytes);
    let login = match &place {
        Some(Place::Server(address)) => Some(Login {
            address: address.clone(),
            key: section.optional("ssh-key", parse::path),
            known_hosts: section.or("known-hosts", KNOWN_HOSTS.into(), parse::path),
        }),
        _ => None,
    };
    let is_folder = matches!(place, None | Some(Place::Folder(_)));
    let path = place.map(|place| match place {
        Place::Folder(path) => path,
        Place::Server(address) => address.to_string().into(),
    });
    let id = section.required("id", parse::from_str("a UUID, such as `uuidgen` prints"));
    let password = section.required("password", parse::secret_source);
    // Nothing is mounted for a server; these keys would be misunderstandings.
    let require_mount = is_folder && section.or("require-mount", true, parse::bool);
    let mount_point = section.optional("mount-point", parse::path);
    let mut filesystems = section.list("filesystems", parse::string);
    if let (Some(path), Some(point)) = (&path, &mount_point)
        && !path.starts_with(point)
    {
        section.problem("mount-point", format!("a folder that holds `{}`", path.display()));
    }
    if !require_mount && (mount_point.is_some() || !filesystems.is_empty()) {
        section.problem("require-mount", "true, where `mount-point` or `filesystems` are given");
    }
    if filesystems.is_empty() {
        filesystems = NETWORK_FILESYSTEMS.map(str::to_owned).to_vec();
    }
    let path = path?;
    let mount = require_mount.then(|| MountRule {
        mount_point: mount_point.unwrap_or_else(|| path.clone()),
        filesystems,
    });
    let whereabouts = Whereabouts {
        medium: section.or("medium", String::new(), parse::string),
        place: section.or("place", String::new(), parse::string),
        off_site: section.or("off-site", false, parse::bool),
    };
    Some(RepositoryConfig {
        name: name?,
        path,
        login,
        access,
        bandwidth,
        id: id?,
        password: password?,
        mount,
        whereabouts,
    })
}

fn backup(section: &Section<'_>, known: &Known) -> Option<BackupConfig> {
    let name = section.required("name", name);
    let kind = section.required("source", parse::word(&SOURCES));
    let repository = section.required("repository", one_of(&known.repositories));
    let copies = section.list("copies", one_of(&known.repositories));
    let spool = section.optional("spool", one_of(&known.repositories));
    refuse_same(section, repository.as_ref(), &copies, spool.as_ref());
    let drill_target = section.optional("drill-target", one_of(&known.targets));
    let source = match kind? {
        SourceKind::Postgres => SourceConfig::Postgres(PostgresConfig::read(section)?),
        SourceKind::Files => SourceConfig::Files(FilesConfig::read(section)?),
        SourceKind::Git => SourceConfig::Git(Box::new(GitConfig::read(section)?)),
        SourceKind::Opnsense => SourceConfig::Opnsense(Box::new(OpnsenseConfig::read(section)?)),
        SourceKind::Zfs => SourceConfig::Zfs(ZfsConfig::read(section)?),
        SourceKind::Vaultwarden => SourceConfig::Vaultwarden(VaultwardenConfig::read(section)?),
    };
    let (name, repository) = (name?, repository?);
    Some(BackupConfig { name, repository, copies, spool, source, drill_target })
}

/// One repository counts once.
fn refuse_same(
    section: &Section<'_>,
    primary: Option<&Name>,
    copies: &[Name],
    spool: Option<&Name>,
) {
    for (at, copy) in copies.iter().enumerate() {
        if Some(copy) == primary || Some(copy) == spool || copies[..at].contains(copy) {
            section.problem("copies", format!("other repositories; `{copy}` is named twice here"));
        }
    }
    if let Some(spool) = spool.filter(|spool| Some(*spool) == primary) {
        section.problem("spool", format!("another repository; `{spool}` is the one that it helps"));
    }
}

fn target(section: &Section<'_>) -> Option<TargetConfig> {
    let name = section.required("name", name);
    let kind = section.or("kind", PlaceKind::Postgres, parse::word(&PLACES));
    let place = match kind {
        PlaceKind::Postgres => {
            let database = section.or("database", "postgres".to_owned(), parse::string);
            PlaceConfig::Postgres(ServerConfig::read(section, Some(database))?)
        }
        PlaceKind::Folder => {
            let path = section.required("path", parse::path);
            let run_max = section.or("run-max", FOLDER_RUN_MAX, parse::duration);
            let vaultwarden = section.optional("vaultwarden", parse::path);
            PlaceConfig::Folder(FolderConfig { path: path?, run_max, vaultwarden })
        }
        PlaceKind::Zfs => PlaceConfig::Zfs(ZfsPlaceConfig::read(section)?),
    };
    Some(TargetConfig { name: name?, place })
}

fn refuse_repeated(root: &Section<'_>, key: &str, names: &[Name]) {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            root.problem(key, format!("names of their own; `{name}` stands there twice"));
        }
    }
}

/// What the kernel calls this host, without a domain.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let short = name.trim().split('.').next().unwrap_or_default();
    if short.is_empty() { "localhost".to_owned() } else { short.to_owned() }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DaemonConfig { listen, pki_dir, state_dir, admin_socket, log, grace } = &self.daemon;
        writeln!(f, "listen = \"{listen}\"")?;
        writeln!(f, "state-dir = \"{}\"", state_dir.display())?;
        writeln!(f, "pki-dir = \"{}\"", pki_dir.display())?;
        match admin_socket {
            Some(path) => writeln!(f, "admin-socket = \"{}\"", path.display())?,
            None => writeln!(f, "admin-socket = false")?,
        }
        writeln!(f, "grace = \"{}\"", parse::show_duration(*grace))?;
        writeln!(f, "host = \"{}\"", self.host)?;
        writeln!(f, "\n[log]\nlevel = \"{}\"", log.level)?;
        write!(f, "\n[postgres]\n{}", self.postgres)?;
        for repository in &self.repositories {
            write_repository(f, repository)?;
        }
        for backup in &self.backups {
            writeln!(f, "\n[[backup]]\nname = \"{}\"", backup.name)?;
            writeln!(f, "repository = \"{}\"", backup.repository)?;
            if !backup.copies.is_empty() {
                let copies: Vec<&str> = backup.copies.iter().map(Name::as_str).collect();
                writeln!(f, "copies = {copies:?}")?;
            }
            if let Some(spool) = &backup.spool {
                writeln!(f, "spool = \"{spool}\"")?;
            }
            if let Some(target) = &backup.drill_target {
                writeln!(f, "drill-target = \"{target}\"")?;
            }
            write!(f, "{}", backup.source)?;
        }
        for target in &self.targets {
            writeln!(f, "\n[[drill-target]]\nname = \"{}\"", target.name)?;
            write!(f, "{}", target.place)?;
        }
        Ok(())
    }
}

impl fmt::Display for SourceConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres(config) => write!(f, "source = \"postgres\"\n{config}"),
            Self::Files(config) => write!(f, "source = \"files\"\n{config}"),
            Self::Git(config) => write!(f, "source = \"git\"\n{config}"),
            Self::Opnsense(config) => write!(f, "source = \"opnsense\"\n{config}"),
            Self::Zfs(config) => write!(f, "source = \"zfs\"\n{config}"),
            Self::Vaultwarden(config) => write!(f, "source = \"vaultwarden\"\n{config}"),
        }
    }
}

impl fmt::Display for PlaceConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres(server) => write!(f, "kind = \"postgres\"\n{server}"),
            Self::Folder(FolderConfig { path, run_max, vaultwarden }) => {
                writeln!(f, "kind = \"folder\"\npath = \"{}\"", path.display())?;
                writeln!(f, "run-max = \"{}\"", parse::show_duration(*run_max))?;
                match vaultwarden {
                    Some(program) => writeln!(f, "vaultwarden = \"{}\"", program.display()),
                    None => Ok(()),
                }
            }
            Self::Zfs(place) => write!(f, "kind = \"zfs\"\n{place}"),
        }
    }
}

fn write_repository(f: &mut fmt::Formatter<'_>, repository: &RepositoryConfig) -> fmt::Result {
    writeln!(f, "\n[[repository]]\nname = \"{}\"", repository.name)?;
    writeln!(f, "path = \"{}\"\nid = \"{}\"", repository.path.display(), repository.id)?;
    writeln!(f, "password = \"{}\"", repository.password)?;
    writeln!(f, "access = \"{}\"", repository.access)?;
    if let Some(bytes) = repository.bandwidth {
        writeln!(f, "bandwidth = \"{bytes} B\"")?;
    }
    if let Some(Login { key, known_hosts, .. }) = &repository.login {
        if let Some(key) = key {
            writeln!(f, "ssh-key = \"{}\"", key.display())?;
        }
        writeln!(f, "known-hosts = \"{}\"", known_hosts.display())?;
    }
    let Whereabouts { medium, place, off_site } = &repository.whereabouts;
    for (key, value) in [("medium", medium), ("place", place)] {
        if !value.is_empty() {
            writeln!(f, "{key} = \"{value}\"")?;
        }
    }
    if *off_site {
        writeln!(f, "off-site = true")?;
    }
    let Some(mount) = &repository.mount else {
        return if repository.login.is_some() {
            Ok(())
        } else {
            writeln!(f, "require-mount = false")
        };
    };
    writeln!(f, "require-mount = true\nmount-point = \"{}\"", mount.mount_point.display())?;
    writeln!(f, "filesystems = {:?}", mount.filesystems)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = include_str!("../../packaging/examples/backup-agent.toml");

    #[test]
    fn a_mount_is_required_unless_the_file_says_otherwise() {
        let config = Config::parse("backup-agent.toml", FILE).expect("a configuration");
        let mount = config.repositories[0].mount.as_ref().expect("a rule");
        assert_eq!(mount.mount_point, Path::new("/mnt/backup"));
        assert!(mount.filesystems.contains(&"nfs4".to_owned()));
        let PlaceConfig::Postgres(server) = &config.targets[0].place else { panic!("a server") };
        assert_eq!(server.database, "postgres");
    }

    #[test]
    fn what_is_printed_reads_back_the_same() {
        let config = Config::parse("backup-agent.toml", FILE).expect("a configuration");
        let printed = config.to_string();
        let again = Config::parse("printed.toml", &printed).expect("a configuration");
        assert_eq!(again.to_string(), printed);
    }

    #[test]
    fn all_problems_come_in_one_report() {
        let broken = FILE
            .replacen("repository = \"nas\"", "repository = \"naas\"", 1)
            .replace("tls-mode = \"verify-full\"", "tls-mode = \"maybe\"\ntls = 1")
            .replace("id = \"0190", "id = \"x190")
            .replace("/mnt/backup/homelab", "/srv/homelab");
        let report = Config::parse("backup-agent.toml", &broken).expect_err("broken").to_string();
        for part in ["5 problems", "`nas`", "verify-full", "a UUID", "a folder that holds"] {
            assert!(report.contains(part), "{part}: {report}");
        }
    }

    #[test]
    fn a_name_stands_for_one_thing() {
        let twice = format!(
            "{FILE}\n[[drill-target]]\nname = \"nas-postgres\"\nhost = \"h\"\nuser = \"u\"\n"
        );
        let report = Config::parse("backup-agent.toml", &twice).expect_err("broken").to_string();
        assert!(report.contains("`nas-postgres` stands there twice"), "{report}");
    }
}
