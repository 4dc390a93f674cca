//! What a person types to get a backup back with nothing of ours: restic for the files, then the
//! standard tools of their kind. An agent that restores prints the same with what its manifest says;
//! this is for the day on which there is no agent.

use homelab_domain::site::{Backup, SourceKind};
use homelab_proto::{backup::v1::Snapshot, controller::v1 as pb};

use super::recovery::source_kind;
use crate::backup::{
    Backups,
    convert::{snapshot_message, time_message},
    kit::KitRepository,
};

/// Tags of every proved snapshot of ours; whatever lacks them may be half of one.
const PROVED: &str = "homelab,verified";

/// Where it lies when no agent has told.
const SOMEWHERE: &str = "REPOSITORY";

/// What the kit says of one backup.
pub(super) fn kit_backup(
    backups: &Backups,
    backup: &Backup,
    repositories: &[KitRepository],
) -> pb::KitBackup {
    let shelf = backups.holdings().shelf(&backup.name, &backup.repository);
    let newest = shelf.newest();
    let of = |one: &&KitRepository| one.declared.name == backup.repository;
    let repository = repositories.iter().find(of);
    pb::KitBackup {
        name: backup.name.to_string(),
        source_kind: source_kind(backup.source).into(),
        host: backup.host.to_string(),
        repositories: backup.repositories().map(ToString::to_string).collect(),
        newest_snapshot_id: newest.map(|one| one.id.clone()).unwrap_or_default(),
        newest_at: newest.map(|one| time_message(one.taken_at)),
        commands: restore_commands(
            backup,
            &repository.map_or_else(|| SOMEWHERE.to_owned(), location),
            newest.map(snapshot_message).as_ref(),
        ),
    }
}

/// Commands that look into a repository and read all of it.
pub(super) fn repository_commands(repository: &KitRepository) -> Vec<String> {
    let place = quoted(&location(repository));
    vec![
        secret_comment(repository),
        format!("restic -r {place} snapshots --tag {PROVED}"),
        format!("restic -r {place} check --read-data"),
    ]
}

fn secret_comment(repository: &KitRepository) -> String {
    match &repository.declared.secret {
        Some(secret) => format!("# RESTIC_PASSWORD_FILE names a file that holds {secret}"),
        None => "# RESTIC_PASSWORD_FILE names a file that holds what opens it".to_owned(),
    }
}

/// Where a repository is, as plain restic wants it; what stands on the kit when no agent has told.
fn location(repository: &KitRepository) -> String {
    let path = repository.paths.first().and_then(|path| path.split_once(':'));
    path.map_or_else(|| SOMEWHERE.to_owned(), |(_, path)| path.to_owned())
}

/// Commands that bring back a snapshot: the newest that was seen, or, when none was, the one that a
/// person picks.
fn restore_commands(backup: &Backup, place: &str, newest: Option<&Snapshot>) -> Vec<String> {
    let place = quoted(place);
    let target = format!("/var/tmp/restore-{}", backup.name);
    let id = newest.map_or("ID", |snapshot| snapshot.id.as_str());
    let mut commands = Vec::new();
    if newest.is_none() {
        commands.push(format!(
            "restic -r {place} snapshots --tag {PROVED}   # ID: the newest of {}",
            backup.name
        ));
    }
    commands.push(format!("restic -r {place} restore {id} --target {target}"));
    // Files lie below the name of their backup, and beside them what they should be.
    commands.push(format!("cd {target}/{}", backup.name));
    commands.extend(match backup.source {
        SourceKind::Postgres => postgres(newest),
        SourceKind::Vaultwarden => vaultwarden(newest),
        SourceKind::Git => git(),
        SourceKind::Opnsense => opnsense(),
        SourceKind::Zfs => zfs(backup, &place, newest),
        SourceKind::Files => files(),
    });
    commands
}

/// Dumps of a snapshot: one for a single database, one for each of a whole server.
fn dumps(newest: Option<&Snapshot>) -> Vec<String> {
    let files = newest.map(|snapshot| snapshot.files.as_slice()).unwrap_or_default();
    let names = files.iter().filter_map(|file| file.path.rsplit('/').next());
    let is_dump = |name: &&str| name.starts_with("database") && name.ends_with(".sql");
    let found: Vec<_> = names.filter(is_dump).map(quoted).collect();
    if found.is_empty() { vec!["database.sql".to_owned()] } else { found }
}

fn postgres(newest: Option<&Snapshot>) -> Vec<String> {
    let mut commands = vec![
        "psql -X -d postgres -f globals.sql   # roles; those that exist say so".to_owned(),
        "# encoding, collation and owner of each DATABASE stand in the manifest beside this folder"
            .to_owned(),
    ];
    for dump in dumps(newest) {
        commands.push("createdb -T template0 -O OWNER -- DATABASE".to_owned());
        commands.push(format!("psql -X -v ON_ERROR_STOP=1 -d DATABASE -f {dump}"));
    }
    commands
}

fn vaultwarden(newest: Option<&Snapshot>) -> Vec<String> {
    let files = newest.map(|snapshot| snapshot.files.as_slice()).unwrap_or_default();
    let on_postgres = files.iter().any(|file| file.path.ends_with("/globals.sql"));
    let mut commands = if on_postgres { postgres(newest) } else { Vec::new() };
    commands.extend(
        [
            "mkdir -m 700 data && tar -C data --numeric-owner -xpf vaultwarden.tar",
            "systemctl stop vaultwarden",
            "mv -T -n /var/lib/vaultwarden /var/lib/vaultwarden.before-restore",
            "mv -T -n data /var/lib/vaultwarden",
            "chown -R --reference=/var/lib/vaultwarden.before-restore /var/lib/vaultwarden",
            "systemctl start vaultwarden",
            "# every user logs out and in again, on every device",
        ]
        .map(str::to_owned),
    );
    commands
}

fn git() -> Vec<String> {
    [
        "mkdir mirrors && tar -xpf repositories.tar -C mirrors",
        "find mirrors -type d -name '*.git' -prune   # then for each, with NEW an empty repository:",
        "git -C mirrors/OWNER/NAME.git push \"$NEW\" 'refs/upstream/heads/*:refs/heads/*' \
         'refs/upstream/tags/*:refs/tags/*'",
    ]
    .map(str::to_owned)
    .into()
}

fn opnsense() -> Vec<String> {
    [
        "# web interface: System > Configuration > Backups > Restore, then choose config.xml",
        "# or, for the installer's `Import Config`, onto a stick:",
        "install -D -m 600 config.xml /media/usb/conf/config.xml",
    ]
    .map(str::to_owned)
    .into()
}

fn zfs(backup: &Backup, place: &str, newest: Option<&Snapshot>) -> Vec<String> {
    let needs = newest.map(|snapshot| snapshot.needs.as_slice()).unwrap_or_default();
    let earlier = needs.iter().map(|run| {
        format!(
            "restic -r {place} dump --tag {PROVED},run={} latest /{}/stream.zfs | zfs receive -u \
             POOL/DATASET-restored",
            quoted(run),
            backup.name
        )
    });
    let own = "zfs receive -u POOL/DATASET-restored < stream.zfs".to_owned();
    let key =
        "zfs load-key POOL/DATASET-restored   # when it is encrypted: by its own key".to_owned();
    earlier.chain([own, key, "zfs mount POOL/DATASET-restored".to_owned()]).collect()
}

fn files() -> Vec<String> {
    [
        "mkdir tree && tar -C tree --numeric-owner -xpf files.tar   # to look at it",
        "tar -C / --numeric-owner -xpf files.tar   # over what is there",
    ]
    .map(str::to_owned)
    .into()
}

/// A word for a shell.
pub(super) fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-:@".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use homelab_domain::{
        ids::{BackupName, HostName, RepositoryName},
        schedule::{Schedule, Zone},
    };
    use homelab_proto::backup::v1::SnapshotFile;

    use super::*;

    fn backup(source: SourceKind) -> Backup {
        Backup::new(
            BackupName::try_new("wiki").expect("a name"),
            HostName::try_new("hx310-db").expect("a name"),
            RepositoryName::try_new("nas").expect("a name"),
            source,
            Schedule::try_new("0 2 * * *", Zone::UTC).expect("a schedule"),
            Duration::from_hours(26),
        )
    }

    fn snapshot(files: &[&str], needs: &[&str]) -> Snapshot {
        Snapshot {
            id: "ab".repeat(32),
            files: files
                .iter()
                .map(|path| SnapshotFile { path: (*path).to_owned(), ..SnapshotFile::default() })
                .collect(),
            needs: needs.iter().map(|run| (*run).to_owned()).collect(),
            ..Snapshot::default()
        }
    }

    fn told(source: SourceKind, snapshot: &Snapshot) -> String {
        restore_commands(&backup(source), "/mnt/nas/it's here", Some(snapshot)).join("\n")
    }

    #[test]
    fn every_kind_begins_with_the_proved_snapshot_and_ends_with_its_own_tools() {
        let tools = |source| match source {
            SourceKind::Postgres => "psql -X -v ON_ERROR_STOP=1 -d DATABASE -f database.sql",
            SourceKind::Vaultwarden => "-xpf vaultwarden.tar",
            SourceKind::Git => "-xpf repositories.tar",
            SourceKind::Opnsense => "config.xml",
            SourceKind::Zfs => "zfs receive -u POOL/DATASET-restored < stream.zfs",
            SourceKind::Files => "-xpf files.tar",
        };
        for source in SourceKind::ALL.iter().copied() {
            let told = told(source, &snapshot(&[], &[]));
            let begin = format!(
                r"restic -r '/mnt/nas/it'\''s here' restore {} --target /var/tmp/restore-wiki
cd /var/tmp/restore-wiki/wiki
",
                "ab".repeat(32)
            );
            assert!(told.starts_with(&begin), "{told}");
            assert!(told.contains(tools(source)), "{told}");
        }
    }

    #[test]
    fn a_whole_server_is_restored_database_by_database() {
        let files = ["/wiki/globals.sql", "/wiki/database-wiki.sql", "/wiki/database-a%20b.sql"];
        let told = told(SourceKind::Postgres, &snapshot(&files, &[]));
        assert_eq!(told.matches("createdb -T template0").count(), 2);
        assert!(told.contains("-f 'database-a%20b.sql'"), "{told}");
        // A role that exists must not end it, so that only the data stops at an error.
        assert!(told.contains("psql -X -d postgres -f globals.sql"), "{told}");
    }

    #[test]
    fn a_vault_in_postgresql_gets_its_database_first() {
        let files = ["/wiki/globals.sql", "/wiki/database.sql", "/wiki/vaultwarden.tar"];
        let told = told(SourceKind::Vaultwarden, &snapshot(&files, &[]));
        assert!(told.find("-f database.sql") < told.find("systemctl stop vaultwarden"), "{told}");
    }

    #[test]
    fn an_incremental_stream_comes_after_what_it_builds_on() {
        let told = told(SourceKind::Zfs, &snapshot(&["/wiki/stream.zfs"], &["run-1", "run-2"]));
        let places: Vec<_> =
            ["run=run-1 latest /wiki/stream.zfs", "run=run-2 latest", "< stream.zfs"]
                .iter()
                .map(|part| told.find(part).expect("is there"))
                .collect();
        assert!(places.is_sorted(), "{told}");
    }

    #[test]
    fn without_a_snapshot_that_was_seen_the_reader_picks_a_proved_one() {
        let told = restore_commands(&backup(SourceKind::Files), SOMEWHERE, None);
        assert_eq!(
            told[..2],
            [
                "restic -r REPOSITORY snapshots --tag homelab,verified   # ID: the newest of wiki",
                "restic -r REPOSITORY restore ID --target /var/tmp/restore-wiki",
            ]
        );
    }
}
