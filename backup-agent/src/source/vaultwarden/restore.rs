//! A restored Vaultwarden: looked at and started in a drill, put back by a person.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use homelab_common::error_chain::Chain;

use super::{
    ARCHIVE_FILE, DATABASE_FILE, VaultwardenError, database,
    database::{Facts, User},
    manifest::{TableRows, Upload, UploadKind, VaultwardenContents, missing},
    server::{self, Outcome},
};
use crate::{
    drill::{Compared, DrillError, Shown, Verdict, folder::Examination},
    shell::{comment, quoted},
    source::{
        files::restore::{read_back, unpack},
        postgres,
    },
    tree::{Entry, What},
};

/// What SQLite keeps beside a database. Beside a restored one it undoes the restore, or
/// destroys it.
const BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Extracts the data folder, compares every file by its hash and the database by its
/// rows, and starts Vaultwarden there if `program` or a known place has it.
pub(crate) fn examine(
    folder: &Path,
    contents: &VaultwardenContents,
    program: Option<&Path>,
    examination: &Examination<'_>,
) -> Result<Shown, DrillError> {
    let began = Instant::now();
    let data = examination.work.join("data");
    let archive = folder.join(ARCHIVE_FILE);
    let mut found =
        unpack(&archive, &data, &contents.entries, examination, VaultwardenError::from)?;
    let mut restore_elapsed = began.elapsed();
    found.extend(read_back(&data, &contents.entries, examination, VaultwardenError::from)?);
    found.extend(lacking(contents));
    let mut compared = counted(contents);
    if contents.postgres.is_some() {
        compared.push(Compared { what: DATABASE_LEFT_OUT, count: 0 });
        return Ok(Shown { verdict: Verdict::of(found), restore_elapsed, compared });
    }
    let path = data.join(DATABASE_FILE);
    let beside = BESIDE.iter().filter(|it| data.join(format!("{DATABASE_FILE}{it}")).exists());
    found.extend(beside.map(|it| format!("`{DATABASE_FILE}{it}` lies beside the database")));
    let user = match examination.wait(database::look(&path))? {
        Ok(facts) => {
            found.extend(differences(contents, &facts));
            facts.user
        }
        Err(error) => {
            found.push(format!("the database cannot be read: {}", Chain(&error)));
            None
        }
    };
    let verdict = if found.is_empty() {
        let (verdict, started, elapsed) = start(&data, user.as_ref(), program, examination)?;
        compared.push(started);
        restore_elapsed += elapsed;
        verdict
    } else {
        Verdict::of(found)
    };
    Ok(Shown { verdict, restore_elapsed, compared })
}

/// Said in a report instead of a number of databases.
const DATABASE_LEFT_OUT: &str = "databases (left out: drill it on a PostgreSQL target as well)";

/// Said in a report instead of a number of starts.
const START_LEFT_OUT: &str = "server starts (left out: no vaultwarden program on this host)";

fn start(
    data: &Path,
    user: Option<&User>,
    program: Option<&Path>,
    examination: &Examination<'_>,
) -> Result<(Verdict, Compared, Duration), DrillError> {
    let Some(program) = server::find(program) else {
        let left_out = Compared { what: START_LEFT_OUT, count: 0 };
        return Ok((Verdict::Passed, left_out, Duration::ZERO));
    };
    let exec = examination.tools.exec.as_ref();
    let tried = examination.wait(server::try_out(exec, &program, data, user))?;
    let outcome = tried.map_err(|error| examination.trouble(error))?;
    let (verdict, count, elapsed) = match outcome {
        Outcome::Answered(elapsed) => (Verdict::Passed, 1, elapsed),
        Outcome::Wrong(text) => (Verdict::Failed { differences: vec![text] }, 1, Duration::ZERO),
        Outcome::Silent(text) => (Verdict::Unverified { because: vec![text] }, 0, Duration::ZERO),
    };
    Ok((verdict, Compared { what: "server starts", count }, elapsed))
}

/// Rows without a file, other than those that were gone when the backup was taken.
fn lacking(contents: &VaultwardenContents) -> Vec<String> {
    let gone = |upload: &&Upload| !contents.deleted_meanwhile.contains(&upload.path);
    let lost = missing(&contents.uploads, &contents.entries).into_iter().filter(gone);
    lost.map(|it| format!("the database names `{}`, which is not in the backup", it.path)).collect()
}

fn differences(contents: &VaultwardenContents, facts: &Facts) -> Vec<String> {
    let mut found = facts.damage.clone();
    for TableRows { table, rows } in &contents.tables {
        match facts.tables.iter().find(|other| other.table == *table) {
            Some(other) if other.rows == *rows => {}
            Some(other) => found.push(format!("`{table}` has {} rows, not {rows}", other.rows)),
            None => found.push(format!("table `{table}` is missing")),
        }
    }
    if contents.uploads != facts.uploads {
        found.push("the attachments and Sends of the database are others".to_owned());
    }
    found
}

fn counted(contents: &VaultwardenContents) -> Vec<Compared> {
    let is_file = |entry: &&Entry| matches!(entry.what, What::File { .. });
    let counts = [
        ("users", contents.rows("users")),
        ("vault entries", contents.rows("ciphers")),
        ("attachments", contents.uploads_of(UploadKind::Attachment)),
        ("file Sends", contents.uploads_of(UploadKind::Send)),
        ("rows", contents.tables.iter().map(|it| it.rows).sum()),
        ("files", contents.entries.iter().filter(is_file).count() as u64),
    ];
    counts.map(|(what, count)| Compared { what, count }).to_vec()
}

/// Commands for a person with tar and nothing of ours.
pub(crate) fn next_steps(folder: &Path, contents: &VaultwardenContents) -> Vec<String> {
    let archive = quoted(&folder.join(ARCHIVE_FILE).display().to_string());
    let fresh = quoted(&folder.join("data").display().to_string());
    let live = &contents.folder;
    let mut steps = Vec::new();
    if let Some(database) = &contents.postgres {
        steps.extend(postgres::restore::next_steps(folder, database));
    }
    steps.push(comment("a new folder: an old db.sqlite3-wal beside the database would undo it"));
    steps.push(format!("mkdir -m 700 -- {fresh} && tar -C {fresh} --numeric-owner -xpf {archive}"));
    steps.push(comment("then as root, with Vaultwarden stopped:"));
    steps.push("systemctl stop vaultwarden".to_owned());
    if live.contains('\\') {
        steps.push(comment(&format!(
            "move the folder in the place of {live}, and keep the old one"
        )));
    } else {
        let (live, kept) = (quoted(live), quoted(&format!("{live}.before-restore")));
        steps.push(format!("mv -T -n -- {live} {kept}"));
        steps.push(format!("mv -T -n -- {fresh} {live}"));
        steps.push(format!("chown -R --reference={kept} -- {live}"));
    }
    steps.push("systemctl start vaultwarden".to_owned());
    steps.push(comment("every user logs out and in again, on every device"));
    steps
}
