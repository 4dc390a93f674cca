//! What a person types to get a backup back with nothing of ours.

use homelab_domain::site::{Backup, SourceKind};
use homelab_proto::controller::v1 as pb;

use super::recovery::source_kind;
use crate::backup::{Backups, convert::time_message, kit::KitRepository};

/// What the kit says of one backup.
pub(super) fn kit_backup(
    backups: &Backups,
    backup: &Backup,
    repositories: &[KitRepository],
) -> pb::KitBackup {
    let shelf = backups.holdings().shelf(&backup.name, &backup.repository);
    let newest = shelf.newest();
    let of = |one: &&KitRepository| one.declared.name == backup.repository;
    let place = repositories.iter().find(of).map(location).unwrap_or_default();
    let id = newest.map_or_else(|| "latest".to_owned(), |one| one.id.clone());
    pb::KitBackup {
        name: backup.name.to_string(),
        source_kind: source_kind(backup.source).into(),
        host: backup.host.to_string(),
        repositories: backup.repositories().map(ToString::to_string).collect(),
        newest_snapshot_id: newest.map(|one| one.id.clone()).unwrap_or_default(),
        newest_at: newest.map(|one| time_message(one.taken_at)),
        commands: restore_commands(backup, &place, &id),
    }
}

/// Where a repository is, as plain restic wants it; what stands on the kit when no agent has told.
pub(super) fn location(repository: &KitRepository) -> String {
    let path = repository.paths.first().and_then(|path| path.split_once(':'));
    path.map_or_else(|| "REPOSITORY".to_owned(), |(_, path)| path.to_owned())
}

/// Commands that bring a backup back with nothing of ours. What is inside of a snapshot says how it
/// goes on; the agent prints the same with the names of the files.
fn restore_commands(backup: &Backup, place: &str, id: &str) -> Vec<String> {
    let folder = format!("/var/tmp/restore-{}", backup.name);
    let mut commands = vec![
        format!("restic -r {} restore {id} --target {folder}", quoted(place)),
        format!("find {folder} -type f"),
    ];
    let next: &[&str] = match backup.source {
        SourceKind::Postgres => &[
            "psql -X -v ON_ERROR_STOP=1 -d postgres -f globals.sql",
            "createdb DATABASE",
            "psql -X -v ON_ERROR_STOP=1 -1 -d DATABASE -f DATABASE.sql",
        ],
        SourceKind::Vaultwarden => &[
            "systemctl stop vaultwarden",
            "mv /var/lib/vaultwarden /var/lib/vaultwarden.before",
            "mkdir /var/lib/vaultwarden && tar -C /var/lib/vaultwarden -xpf data.tar",
            "systemctl start vaultwarden",
        ],
        SourceKind::Git => &[
            "mkdir mirrors && tar -C mirrors -xpf mirrors.tar",
            "git -C mirrors/OWNER/NAME.git push --mirror NEW_URL",
        ],
        SourceKind::Opnsense => &["# System > Configuration > Backups > Restore: config.xml"],
        SourceKind::Zfs => &["zfs receive -s -u POOL/DATASET < STREAM"],
        SourceKind::Files => &["tar -C / -xpf FILES.tar"],
    };
    commands.push(format!("cd {folder}"));
    commands.extend(next.iter().map(|command| (*command).to_owned()));
    commands
}

/// A word for a shell.
pub(super) fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-:@".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}
