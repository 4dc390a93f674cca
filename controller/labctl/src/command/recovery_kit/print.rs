//! `labctl recovery-kit print` and `join`: secrets onto paper, and back.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use homelab_common::{
    exit::Exit,
    secret::Secret,
    split::{Share, join, split},
};
use homelab_proto::controller::v1::GetRecoveryKitResponse;

use super::{
    get, open,
    prove::file_of,
    sheet::{Held, Sheet, page},
};
use crate::{
    args::{JoinArgs, PrintArgs},
    failure::Failure,
    lab::Lab,
    output,
};

/// A secret of the kit that was found in the folder.
struct Found {
    name: String,
    opens: String,
    text: Secret<String>,
}

/// Writes the sheets; nothing of a secret leaves this host.
pub(super) async fn print(lab: &Lab, args: PrintArgs) -> Result<Exit, Failure> {
    let kit = get(lab).await?;
    let mut missing = Vec::new();
    let mut found = Vec::new();
    for secret in &kit.secrets {
        match file_of(&args.secrets, &secret.name) {
            None => missing.push(secret.name.clone()),
            Some(file) => found.push(Found {
                name: secret.name.clone(),
                opens: secret.opens.clone(),
                text: read(&file)?,
            }),
        }
    }
    if found.is_empty() {
        let words = format!("{} holds no secret of the kit", args.secrets.display());
        return Err(Failure::new(Exit::Usage, words)
            .next("`labctl recovery-kit show` names them; each is a file of that name"));
    }
    let sheets = if args.split { split_up(lab, &kit, &found)? } else { whole(&kit, &found) };
    for (name, text) in sheets {
        let path = args.out.join(name);
        if lab.global.dry_run {
            output::say(&format!("would write {}", path.display()));
            continue;
        }
        write(&path, text.expose())?;
        output::write(&format!("{}\n", path.display()))?;
    }
    if !missing.is_empty() {
        output::say(&format!("not in the folder, write them by hand: {}", missing.join(", ")));
        return Ok(Exit::Partial);
    }
    output::say(
        "print them, then delete the files; labctl recovery-kit prove tells whether they open",
    );
    Ok(Exit::Ok)
}

fn whole(kit: &GetRecoveryKitResponse, found: &[Found]) -> Vec<(String, Secret<String>)> {
    let held = found.iter().map(|one| Held {
        name: one.name.clone(),
        opens: one.opens.clone(),
        text: one.text.clone(),
    });
    let held: Vec<_> = held.collect();
    vec![("recovery-kit.html".to_owned(), page(kit, Sheet::Whole, &held))]
}

fn split_up(
    lab: &Lab,
    kit: &GetRecoveryKitResponse,
    found: &[Found],
) -> Result<Vec<(String, Secret<String>)>, Failure> {
    let mut held: [Vec<Held>; 3] = Default::default();
    for one in found {
        let shares = split(&one.name, one.text.expose().as_bytes(), lab.chance())
            .map_err(|error| Failure::new(Exit::Failed, format!("{}: {error}", one.name)))?;
        for (sheet, share) in held.iter_mut().zip(&shares) {
            sheet.push(Held::share(share, &one.opens));
        }
    }
    let sheets = held.iter().zip(1..).map(|(held, place)| {
        (format!("recovery-kit-{place}-of-3.html"), page(kit, Sheet::Share(place), held))
    });
    Ok(sheets.collect())
}

/// Gives a secret back from two of its shares, as they were typed or read from paper.
pub(super) fn join_shares(args: &JoinArgs) -> Result<Exit, Failure> {
    let [one, other] = [&args.one, &args.other].map(|file| share(file));
    let joined = together(&one?, &other?)?;
    match &args.out {
        Some(path) => {
            write(path, joined.expose())?;
            output::say(&format!("written to {}", path.display()));
        }
        None => output::write(&format!("{}\n", joined.expose()))?,
    }
    Ok(Exit::Ok)
}

/// The secret of two shares, as text.
fn together(one: &Share, other: &Share) -> Result<Secret<String>, Failure> {
    let joined = join(one, other).map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    let text = String::from_utf8(joined.expose().clone());
    text.map(Secret::new)
        .map_err(|_| Failure::new(Exit::Failed, "what the shares give is no text".to_owned()))
}

fn share(file: &Path) -> Result<Share, Failure> {
    let text = read(file)?;
    text.expose().parse().map_err(|error| {
        Failure::new(Exit::Failed, format!("{}: {error}", file.display()))
            .next("the file holds one line that begins with share-2-of-3:")
    })
}

/// Two shares of a secret in a folder, `NAME.share-1` to `NAME.share-3`, as the secret; none when there
/// are not two.
pub(super) fn shared(folder: &Path, name: &str) -> Option<Result<Secret<String>, Failure>> {
    let files = (1..=3).map(|place| folder.join(format!("{name}.share-{place}")));
    let files: Vec<PathBuf> = files.filter(|path| path.is_file()).collect();
    let [one, other, ..] = files.as_slice() else { return None };
    Some(share(one).and_then(|one| together(&one, &share(other)?)))
}

fn read(file: &Path) -> Result<Secret<String>, Failure> {
    let text = open::read(file).map_err(|why| Failure::new(Exit::Failed, why))?;
    let text = String::from_utf8(text)
        .map_err(|_| Failure::new(Exit::Failed, format!("{} is no text", file.display())))?;
    Ok(Secret::new(text.trim_end_matches(['\n', '\r']).to_owned()))
}

/// Writes what only its owner may read, over nothing.
pub(super) fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error: io::Error| {
        let next = match error.kind() {
            io::ErrorKind::AlreadyExists => "move it away first",
            _ => "the folder must exist and be yours to write to",
        };
        Failure::new(Exit::Failed, format!("write {}: {error}", path.display())).next(next)
    };
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

/// A secret in a file for as long as this value lives: for programs that read one.
pub(super) struct Lent(PathBuf);

impl Lent {
    /// Puts it where only this person looks, in memory where the system gives room there.
    pub(super) fn new(secret: &Secret<String>, name: &str) -> Result<Self, Failure> {
        let room =
            std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let path = room.join(format!("labctl-{}-{name}", std::process::id()));
        write(&path, secret.expose())?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // Nothing can be done about it here; the name says whose it was.
        drop(fs::remove_file(&self.0));
    }
}

#[cfg(test)]
mod tests {
    use homelab_common::chance::SeededChance;

    use super::*;

    #[test]
    fn two_files_of_shares_give_the_secret_and_one_does_not() {
        let folder = tempfile::tempdir().expect("folder");
        let shares = split("nas-key", b"correct horse", &SeededChance::new(3)).expect("splits");
        let put = |place: usize| {
            let path = folder.path().join(format!("nas-key.share-{place}"));
            fs::write(path, format!("{}\n", shares[place - 1])).expect("written");
        };
        put(3);
        assert!(shared(folder.path(), "nas-key").is_none());
        put(1);
        let joined = shared(folder.path(), "nas-key").expect("two").expect("fit");
        assert_eq!(joined.expose(), "correct horse");
        fs::write(folder.path().join("nas-key.share-1"), "share-2-of-3:nas-key:1:00:00")
            .expect("w");
        assert!(shared(folder.path(), "nas-key").expect("two").is_err(), "a wrong letter");
    }

    #[test]
    fn what_is_written_is_private_and_over_nothing() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("sheet.html");
        write(&path, "secret").expect("written");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(write(&path, "other").is_err());
        assert_eq!(fs::read_to_string(&path).expect("text"), "secret");
    }
}
