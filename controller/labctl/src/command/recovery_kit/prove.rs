//! `labctl recovery-kit prove`: each secret of the kit is tried, and what came of it is kept.

use std::path::{Path, PathBuf};

use homelab_common::{
    exec::{Exec, SystemExec},
    exit::Exit,
};
use homelab_proto::controller::v1::{
    GetRecoveryKitResponse, KitProofItem, KitRepository, KitSecret, RecordKitProofRequest,
    RecordKitProofResponse,
};

use super::{
    get,
    open::{self, Tried},
    print::{Lent, shared},
};
use crate::{
    args::ProveArgs,
    call,
    failure::Failure,
    lab::Lab,
    output::{self, Rows},
};

/// What a file of a secret may be called besides its name.
const ENDINGS: [&str; 4] = ["", ".txt", ".pem", ".key"];

/// A secret of the kit with what came of it.
type Trial = (String, Tried);

/// Tries every secret and keeps the proof.
pub(super) async fn run(lab: &Lab, args: ProveArgs) -> Result<Exit, Failure> {
    let kit = get(lab).await?;
    known(&kit, &args)?;
    let mut trials = Vec::new();
    for secret in &kit.secrets {
        if !lab.for_programs() {
            output::say(&format!("trying {} …", secret.name));
        }
        trials.push((secret.name.clone(), tried(&SystemExec, &kit, secret, &args).await));
    }
    let items = items(&trials);
    if items.is_empty() {
        output::say(rows(&trials).text().trim_end());
        return Err(Failure::new(Exit::Usage, "nothing was tried")
            .next("labctl recovery-kit prove --secrets FOLDER; --help shows what lies in it"));
    }
    let passed = items.iter().all(|item| item.opened);
    let complete = items.len() == trials.len();
    if lab.global.dry_run {
        output::write(&rows(&trials).text())?;
        output::say("only tried: the proof was not kept");
        return Ok(exit_of(passed, complete));
    }
    let answer = record(lab, &kit, &args, items).await?;
    lab.print(call::RECORD_KIT_PROOF, &answer, || rows(&trials))?;
    let of = args.fingerprint.as_deref().unwrap_or(&kit.fingerprint);
    if of != kit.fingerprint {
        output::say(
            "the kit that was tried is out of date: print it anew, labctl recovery-kit show",
        );
    }
    if !answer.missing.is_empty() {
        output::say(&format!("not tried: {}", answer.missing.join(", ")));
    }
    Ok(exit_of(passed, complete))
}

const fn exit_of(passed: bool, complete: bool) -> Exit {
    match (passed, complete) {
        (false, _) => Exit::Failed,
        (true, false) => Exit::Partial,
        (true, true) => Exit::Ok,
    }
}

async fn record(
    lab: &Lab,
    kit: &GetRecoveryKitResponse,
    args: &ProveArgs,
    items: Vec<KitProofItem>,
) -> Result<RecordKitProofResponse, Failure> {
    let request = RecordKitProofRequest {
        request_id: lab.request_id(),
        fingerprint: args.fingerprint.clone().unwrap_or_else(|| kit.fingerprint.clone()),
        items,
    };
    lab.call("keep the proof of the recovery kit", call::RECORD_KIT_PROOF, request).await
}

/// Names that were typed must be those of the kit: a proof of a typo is none.
fn known(kit: &GetRecoveryKitResponse, args: &ProveArgs) -> Result<(), Failure> {
    let secrets: Vec<_> = kit.secrets.iter().map(|secret| secret.name.as_str()).collect();
    let typed = args.opened.iter().chain(args.failed.iter().map(|(name, _)| name));
    check(typed, &secrets, "secret")?;
    let repositories: Vec<_> = kit.repositories.iter().map(|one| one.name.as_str()).collect();
    check(args.repositories.iter().map(|(name, _)| name), &repositories, "repository")
}

fn check<'a>(
    typed: impl Iterator<Item = &'a String>,
    known: &[&str],
    what: &str,
) -> Result<(), Failure> {
    for name in typed {
        if !known.contains(&name.as_str()) {
            let words = format!("the kit has no {what} `{name}`");
            return Err(
                Failure::new(Exit::Usage, words).next(format!("one of: {}", known.join(", ")))
            );
        }
    }
    Ok(())
}

async fn tried(
    exec: &dyn Exec,
    kit: &GetRecoveryKitResponse,
    secret: &KitSecret,
    args: &ProveArgs,
) -> Tried {
    if let Some((_, why)) = args.failed.iter().find(|(name, _)| *name == secret.name) {
        return Tried::Refused(why.clone());
    }
    if args.opened.contains(&secret.name) {
        return Tried::Opened("tried by hand".to_owned());
    }
    let Some(folder) = args.secrets.as_deref() else {
        return Tried::Not("no folder was given: --secrets FOLDER".to_owned());
    };
    if let Some(file) = file_of(folder, &secret.name) {
        return open_all(exec, kit, secret, args, &file).await;
    }
    // Not the secret itself; two of its shares are as good, in a file that lasts as long as this try.
    match shared(folder, &secret.name).map(|joined| Lent::new(&joined?, &secret.name)) {
        None => Tried::Not(format!("no file `{}` in the folder of --secrets", secret.name)),
        Some(Err(Failure::Said(trouble))) => Tried::Refused(trouble.what),
        Some(Err(Failure::Shown)) => Tried::Not("the shares could not be read".to_owned()),
        Some(Ok(lent)) => open_all(exec, kit, secret, args, lent.path()).await,
    }
}

/// Tries the secret in a file on everything that it opens.
async fn open_all(
    exec: &dyn Exec,
    kit: &GetRecoveryKitResponse,
    secret: &KitSecret,
    args: &ProveArgs,
    file: &Path,
) -> Tried {
    if let Some(tried) = open::root_key(file, &kit.ca_root_pem) {
        return tried;
    }
    let opens: Vec<_> = kit.repositories.iter().filter(|one| one.secret == secret.name).collect();
    if opens.is_empty() {
        let why = "nothing here can try it: do so by hand, then say --opened or --failed";
        return Tried::Not(why.to_owned());
    }
    let mut each = Vec::new();
    for repository in opens {
        each.push(match place_of(repository, args) {
            Some(place) => open::repository(exec, &args.restic, repository, &place, file).await,
            None => Tried::Not(format!(
                "{0} is out of reach from here: --repository {0}=PLACE",
                repository.name
            )),
        });
    }
    together(each)
}

/// Where this host finds a repository: as was said, else the first path of the kit that is here.
fn place_of(repository: &KitRepository, args: &ProveArgs) -> Option<String> {
    if let Some((_, place)) = args.repositories.iter().find(|(name, _)| *name == repository.name) {
        return Some(place.clone());
    }
    let paths = repository.paths.iter().filter_map(|path| path.split_once(':'));
    paths.map(|(_, path)| path).find(|path| Path::new(path).is_dir()).map(str::to_owned)
}

/// The file of a secret in a folder.
pub(super) fn file_of(folder: &Path, secret: &str) -> Option<PathBuf> {
    let names = ENDINGS.iter().map(|ending| folder.join(format!("{secret}{ending}")));
    names.into_iter().find(|path| path.is_file())
}

/// A secret that opens several repositories: one refusal is a refusal, one opening is enough where the
/// others cannot be seen from here.
fn together(each: Vec<Tried>) -> Tried {
    let (mut opened, mut not) = (Vec::new(), Vec::new());
    for one in each {
        match one {
            Tried::Refused(why) => return Tried::Refused(why),
            Tried::Opened(what) => opened.push(what),
            Tried::Not(why) => not.push(why),
        }
    }
    if opened.is_empty() {
        return Tried::Not(not.join("; "));
    }
    opened.extend(not);
    Tried::Opened(opened.join("; "))
}

/// What is kept: only what was tried.
fn items(trials: &[Trial]) -> Vec<KitProofItem> {
    let item = |secret: &str, opened, message: &str| KitProofItem {
        secret: secret.to_owned(),
        opened,
        message: message.to_owned(),
    };
    let each = trials.iter().filter_map(|(secret, tried)| match tried {
        Tried::Opened(what) => Some(item(secret, true, what)),
        Tried::Refused(why) => Some(item(secret, false, why)),
        Tried::Not(_) => None,
    });
    each.collect()
}

fn rows(trials: &[Trial]) -> Rows {
    let mut rows = Rows::new(&["secret", "opened", "what was seen"], "The kit has no secrets.");
    for (secret, tried) in trials {
        let (opened, seen) = match tried {
            Tried::Opened(what) => ("yes", what),
            Tried::Refused(why) => ("NO", why),
            Tried::Not(why) => ("not tried", why),
        };
        rows.push(secret, [secret.clone(), opened.to_owned(), seen.clone()]);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> ProveArgs {
        ProveArgs {
            secrets: None,
            repositories: Vec::new(),
            opened: Vec::new(),
            failed: Vec::new(),
            fingerprint: None,
            restic: "restic".to_owned(),
        }
    }

    #[test]
    fn one_refusal_is_a_refusal_and_one_opening_is_enough() {
        let opened = || Tried::Opened("nas: 3 verified snapshots".to_owned());
        let not = || Tried::Not("parents is out of reach".to_owned());
        let refused = || Tried::Refused("wrong password".to_owned());
        assert_eq!(together(vec![opened(), refused(), not()]), refused());
        let both = Tried::Opened("nas: 3 verified snapshots; parents is out of reach".to_owned());
        assert_eq!(together(vec![not(), opened()]), both);
        assert_eq!(together(vec![not()]), not());
    }

    #[test]
    fn only_what_was_tried_is_kept() {
        let trials = vec![
            ("a".to_owned(), Tried::Opened("it did".to_owned())),
            ("b".to_owned(), Tried::Not("no file".to_owned())),
            ("c".to_owned(), Tried::Refused("it did not".to_owned())),
        ];
        let kept: Vec<_> =
            items(&trials).into_iter().map(|item| (item.secret, item.opened)).collect();
        assert_eq!(kept, [("a".to_owned(), true), ("c".to_owned(), false)]);
        assert_eq!(
            rows(&trials).text(),
            "SECRET  OPENED     WHAT WAS SEEN\na       yes        it did\n\
             b       not tried  no file\nc       NO         it did not\n"
        );
        assert_eq!(exit_of(false, true), Exit::Failed);
        assert_eq!(exit_of(true, false), Exit::Partial);
    }

    #[test]
    fn a_name_that_the_kit_does_not_have_proves_nothing() {
        let secret = KitSecret { name: "nas-key".to_owned(), ..KitSecret::default() };
        let kit = GetRecoveryKitResponse { secrets: vec![secret], ..Default::default() };
        assert!(known(&kit, &ProveArgs { opened: vec!["nas-key".to_owned()], ..args() }).is_ok());
        let typo = ProveArgs { opened: vec!["nas-kye".to_owned()], ..args() };
        let Err(Failure::Said(trouble)) = known(&kit, &typo) else { panic!("a typo") };
        assert_eq!(trouble.next.as_deref(), Some("one of: nas-key"));
    }

    #[test]
    fn a_repository_is_where_it_was_said_to_be_and_else_where_the_kit_says() {
        let folder = tempfile::tempdir().expect("folder");
        let here = folder.path().display().to_string();
        let nas = KitRepository {
            name: "nas".to_owned(),
            paths: vec!["x99:/nowhere/at/all".to_owned(), format!("hx310-db:{here}")],
            ..KitRepository::default()
        };
        assert_eq!(place_of(&nas, &args()), Some(here));
        let said = ProveArgs { repositories: vec![("nas".into(), "sftp:nas:/b".into())], ..args() };
        assert_eq!(place_of(&nas, &said).as_deref(), Some("sftp:nas:/b"));
        assert_eq!(place_of(&KitRepository::default(), &args()), None);
    }
}
