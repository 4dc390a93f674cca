//! The `zfs` program: a closed list of verbs, here or on another host.
//!
//! There is no verb that destroys a filesystem with its snapshots, rolls back, or
//! receives by force: no `-r`, no `-R`, no `-f`, no `-F`. A snapshot is destroyed
//! only after it was looked at once more and is still the one that the plan meant.

use std::{
    io::Read,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use homelab_common::exec::{Exec, ExecError, Finished, Killer, Program, Streaming};
use tokio_util::sync::CancellationToken;

use super::{
    ZfsError,
    capability::Capabilities,
    inventory::{self, BACKUP_PROPERTY, Dataset, PROPERTIES, Properties, RUN_PROPERTY, own_mark},
    names::{DatasetName, Guid, PREFIX},
    plan::{How, Token},
};

/// How long a question may take. A pool that is busy scrubbing answers in seconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);

/// The longest answer, in bytes: a hundred thousand snapshots with their properties.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// The program that is used unless another one is named.
pub const PROGRAM: &str = "zfs";

/// Runs `zfs`. Everything here blocks.
#[derive(Clone, Debug)]
pub struct Zfs {
    /// Runs programs.
    pub exec: Arc<dyn Exec>,
    /// The words that reach another host, which is the last of them, such as `ssh`,
    /// `-oBatchMode=yes` and `nas`; none for this host.
    pub over: Vec<String>,
    /// The program's name or path.
    pub program: String,
    /// A stream that takes longer is ended.
    pub transfer_max: Duration,
}

/// What a snapshot of ours says of itself.
#[derive(Clone, Debug)]
pub struct Marks {
    /// The run that made it.
    pub run: String,
    /// The backup whose policy it follows.
    pub backup: String,
}

impl Zfs {
    /// The other host that it runs on, whose shell takes the words apart again.
    #[must_use]
    pub fn host(&self) -> Option<String> {
        self.over.last().cloned()
    }

    /// Finds out what the program can do.
    ///
    /// # Errors
    ///
    /// It cannot be started, or its host not be reached.
    pub fn capabilities(&self) -> Result<Capabilities, ZfsError> {
        let usage = |verb: &str| {
            // Called with too few words on purpose: the usage comes with a failure.
            let program = self.program([verb])?.accept([0, 1, 2]);
            let (text, finished) = self.run(&format!("ask what `zfs {verb}` can do"), program)?;
            Ok::<_, ZfsError>(text + &finished.stderr_tail)
        };
        let version = usage("version")?;
        Ok(Capabilities::parse(&version, &usage("send")?, &usage("receive")?, &usage("bookmark")?))
    }

    /// A dataset with its snapshots and bookmarks; `None` when there is none.
    ///
    /// # Errors
    ///
    /// The program failed, or its answer was not understood.
    pub fn find(&self, name: &DatasetName) -> Result<Option<Dataset>, ZfsError> {
        let mut asked: Vec<&str> = PROPERTIES.to_vec();
        // Each round leaves out one property that this version does not know.
        for _ in 0..PROPERTIES.len() {
            let properties = asked.join(",");
            let words = ["get", "-Hp", "-d", "1", "-o", "name,property,value,source", &properties];
            let program = self.program(words.into_iter().chain([name.as_str()]))?;
            match self.run(&format!("look at `{name}`"), program) {
                Ok((text, _)) => {
                    let dataset = Dataset::parse(name, &text);
                    return dataset.map(Some).map_err(ZfsError::Answer);
                }
                Err(error) => match unknown_property(&error) {
                    Some(unknown) if asked.contains(&unknown.as_str()) => {
                        asked.retain(|property| *property != unknown);
                    }
                    _ if says(&error, "does not exist") => return Ok(None),
                    _ => return Err(error),
                },
            }
        }
        Ok(None)
    }

    /// A dataset that must be there.
    ///
    /// # Errors
    ///
    /// As [`Zfs::find`], or it is not there.
    pub fn dataset(&self, name: &DatasetName) -> Result<Dataset, ZfsError> {
        let missing = || ZfsError::NoDataset { dataset: name.clone(), host: self.host() };
        self.find(name)?.ok_or_else(missing)
    }

    /// Every property of one dataset.
    ///
    /// # Errors
    ///
    /// The program failed, or its answer was not understood.
    pub fn properties(&self, name: &DatasetName) -> Result<Properties, ZfsError> {
        let words = ["get", "-Hp", "-o", "name,property,value,source", "all", name.as_str()];
        let text = self.ask(&format!("read the properties of `{name}`"), words)?;
        let mut rows = inventory::rows(&text).map_err(ZfsError::Answer)?;
        Ok(rows.remove(name.as_str()).unwrap_or_default())
    }

    /// Makes a snapshot that says whose it is.
    ///
    /// # Errors
    ///
    /// The program failed.
    pub fn snapshot(&self, name: &DatasetName, at: &str, marks: &Marks) -> Result<(), ZfsError> {
        let (run, backup) = marks.properties();
        let full = name.at(at);
        let words = ["snapshot", "-o", &run, "-o", &backup, &full];
        self.ask(&format!("make the snapshot `{full}`"), words).map(drop)
    }

    /// Sets a property.
    ///
    /// # Errors
    ///
    /// The program failed.
    pub fn set(&self, full: &str, property: &str) -> Result<(), ZfsError> {
        self.ask(&format!("set {property} on `{full}`"), ["set", property, full]).map(drop)
    }

    /// Says of a received snapshot whose it is.
    ///
    /// # Errors
    ///
    /// The program failed.
    pub fn mark(&self, full: &str, marks: &Marks) -> Result<(), ZfsError> {
        let (run, backup) = marks.properties();
        self.set(full, &run)?;
        self.set(full, &backup)
    }

    /// Keeps a snapshot from being destroyed; no error when it is held by this tag already.
    ///
    /// # Errors
    ///
    /// The program failed.
    pub fn hold(&self, full: &str, tag: &str) -> Result<(), ZfsError> {
        let held = self.ask(&format!("hold `{full}`"), ["hold", tag, full]);
        forgive(held, "tag already exists")
    }

    /// Takes a hold back; no error when there is none of this tag.
    ///
    /// # Errors
    ///
    /// The program failed.
    pub fn release(&self, full: &str, tag: &str) -> Result<(), ZfsError> {
        let released = self.ask(&format!("release `{full}`"), ["release", tag, full]);
        forgive(released, "no such tag")
    }

    /// Makes a bookmark that remembers a snapshot.
    ///
    /// # Errors
    ///
    /// The program failed.
    pub fn bookmark(&self, name: &DatasetName, snapshot: &str) -> Result<(), ZfsError> {
        let (at, mark) = (name.at(snapshot), name.mark(snapshot));
        let made = self.ask(&format!("make the bookmark `{mark}`"), ["bookmark", &at, &mark]);
        forgive(made, "bookmark exists")
    }

    /// Destroys a snapshot, if it is still the one that was meant: same guid, our
    /// prefix, and our mark set on it.
    ///
    /// # Errors
    ///
    /// It is another one now, or the program failed.
    pub fn destroy_snapshot(
        &self,
        name: &DatasetName,
        at: &str,
        guid: Guid,
        backup: &str,
    ) -> Result<(), ZfsError> {
        let full = name.at(at);
        let wanted = format!("guid,{RUN_PROPERTY},{BACKUP_PROPERTY}");
        let words = ["get", "-Hp", "-o", "name,property,value,source", &wanted, &full];
        let text = self.ask(&format!("look at `{full}` once more"), words)?;
        let mut rows = inventory::rows(&text).map_err(ZfsError::Answer)?;
        let properties = rows.remove(&full).unwrap_or_default();
        let is_same = inventory::value(&properties, "guid") == Some(&guid.to_string());
        let is_ours = at.starts_with(PREFIX)
            && own_mark(&properties, RUN_PROPERTY).is_some()
            && own_mark(&properties, BACKUP_PROPERTY) == Some(backup);
        if !is_same || !is_ours {
            return Err(ZfsError::NotOurs { name: full });
        }
        self.ask(&format!("destroy the snapshot `{full}`"), ["destroy", &full]).map(drop)
    }

    /// Explains a resume token.
    ///
    /// # Errors
    ///
    /// The program failed for another reason than that the token's snapshot is gone.
    pub fn explain(&self, text: &str) -> Result<Result<Token, String>, ZfsError> {
        let program = self.program(["send", "-nvt", text])?.accept([0, 1, 255]);
        let (output, finished) = self.run("explain a resume token", program)?;
        // Some versions write it to one, some to the other.
        let explained = output + "\n" + &finished.stderr_tail;
        Ok(Token::explain(text, &explained).ok_or_else(|| text.to_owned()))
    }

    /// Throws away what an interrupted receive left.
    ///
    /// # Errors
    ///
    /// The program failed.
    pub fn discard_partial(&self, name: &DatasetName) -> Result<(), ZfsError> {
        let what = format!("throw away the half that `{name}` holds");
        self.ask(&what, ["receive", "-A", name.as_str()]).map(drop)
    }

    /// Sends a snapshot as `how` says.
    ///
    /// # Errors
    ///
    /// It could not be started.
    pub fn send(
        &self,
        name: &DatasetName,
        at: &str,
        how: &How,
        options: &str,
    ) -> Result<Streaming, ZfsError> {
        let full = name.at(at);
        let mut words = vec!["send".to_owned()];
        if let How::Resume(token) = how {
            words.extend(["-t".to_owned(), token.text.clone()]);
        } else {
            words.extend(options.split_whitespace().map(str::to_owned));
            match how {
                How::SinceSnapshot { name: base, .. } => {
                    words.extend(["-i".to_owned(), name.at(base)]);
                }
                How::SinceBookmark { name: base, .. } => {
                    words.extend(["-i".to_owned(), name.mark(base)]);
                }
                How::Nothing | How::Full | How::Resume(_) | How::Discard => {}
            }
            words.push(full.clone());
        }
        let program = self.program(words)?.deadline(self.transfer_max);
        let failed = |source| failed(&format!("send `{full}`"), source);
        self.exec.stream(program).map_err(failed)
    }

    /// Starts to receive into `name`; the stream goes into its input.
    ///
    /// # Errors
    ///
    /// It could not be started.
    pub fn receive(&self, name: &DatasetName, options: &[&str]) -> Result<Streaming, ZfsError> {
        let words = ["receive"].into_iter().chain(options.iter().copied()).chain([name.as_str()]);
        let program = self.program(words)?.stdin_piped().deadline(self.transfer_max);
        let failed = |source| failed(&format!("receive `{name}`"), source);
        self.exec.stream(program).map_err(failed)
    }

    /// Runs a verb and gives what it printed.
    ///
    /// # Errors
    ///
    /// The program failed.
    pub fn ask<'w>(
        &self,
        what: &str,
        words: impl IntoIterator<Item = &'w str>,
    ) -> Result<String, ZfsError> {
        let program = self.program(words)?;
        self.run(what, program).map(|(text, _)| text)
    }

    fn program<W: Into<String>>(
        &self,
        words: impl IntoIterator<Item = W>,
    ) -> Result<Program, ZfsError> {
        let words: Vec<String> = words.into_iter().map(Into::into).collect();
        if self.host().is_some()
            && let Some(word) = words.iter().find(|word| !is_plain_for_shells(word))
        {
            return Err(ZfsError::NotPlain { word: word.clone() });
        }
        let mut command = self.over.iter().chain([&self.program]).cloned();
        let program = Program::new(command.next().unwrap_or_else(|| PROGRAM.to_owned()));
        let program = program.args(command).args(words).env("LC_ALL", "C");
        Ok(program.deadline(ANSWER_WITHIN).output_bytes_max(ANSWER_BYTES_MAX))
    }

    fn run(&self, what: &str, program: Program) -> Result<(String, Finished), ZfsError> {
        let failed = |source| failed(what, source);
        let mut stream = self.exec.stream(program).map_err(failed)?;
        let mut bytes = Vec::new();
        // A failed read has its cause in the program's own end.
        drop(stream.read_to_end(&mut bytes));
        let finished = stream.finish().map_err(failed)?;
        Ok((String::from_utf8_lossy(&bytes).into_owned(), finished))
    }
}

impl Marks {
    fn properties(&self) -> (String, String) {
        (format!("{RUN_PROPERTY}={}", self.run), format!("{BACKUP_PROPERTY}={}", self.backup))
    }
}

/// The programs of a run, to be ended when it is cancelled.
#[derive(Debug)]
pub(crate) struct Running {
    cancel: CancellationToken,
    killers: Mutex<Vec<Killer>>,
}

impl Running {
    pub(crate) fn new(cancel: &CancellationToken) -> Self {
        Self { cancel: cancel.child_token(), killers: Mutex::default() }
    }

    pub(crate) fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    pub(crate) fn add(&self, killer: Killer) {
        let mut killers = self.killers.lock().unwrap_or_else(PoisonError::into_inner);
        // Cancelled before it was added: nobody else would end it.
        if self.cancel.is_cancelled() {
            killer.kill();
        }
        killers.push(killer);
    }

    fn stop(&self) {
        self.cancel.cancel();
        let killers = self.killers.lock().unwrap_or_else(PoisonError::into_inner);
        killers.iter().for_each(Killer::kill);
    }
}

/// Ends programs that may still run when nobody waits for them any more.
pub(crate) struct StopOnDrop(pub(crate) Arc<Running>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Whether a shell at the far end of ssh leaves the word as it is.
fn is_plain_for_shells(word: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@#/_.:=,+-".contains(c);
    // A `#` at the beginning of a word is a comment; it never begins one of ours.
    !word.is_empty() && !word.starts_with('#') && word.chars().all(plain)
}

/// The program failed at `what`.
pub(crate) fn failed(what: &str, source: ExecError) -> ZfsError {
    ZfsError::Command { what: what.to_owned(), source: Box::new(source) }
}

fn unknown_property(error: &ZfsError) -> Option<String> {
    // `bad property list: invalid property 'written'`
    let (_, rest) = said(error)?.split_once("invalid property '")?;
    rest.split_once('\'').map(|(name, _)| name.to_owned())
}

/// What the program said when it failed.
fn said(error: &ZfsError) -> Option<&str> {
    let ZfsError::Command { source, .. } = error else { return None };
    match source.as_ref() {
        ExecError::Exit { stderr_tail, .. } => Some(stderr_tail),
        _ => None,
    }
}

fn says(error: &ZfsError, text: &str) -> bool {
    said(error).is_some_and(|said| said.contains(text))
}

fn forgive(done: Result<String, ZfsError>, text: &str) -> Result<(), ZfsError> {
    match done {
        Err(error) if !says(&error, text) => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use homelab_common::exec::fake::{Answer, FakeExec};

    fn zfs(exec: &FakeExec, over: &[&str]) -> Zfs {
        Zfs {
            exec: Arc::new(exec.clone()),
            over: over.iter().map(|word| (*word).to_owned()).collect(),
            program: PROGRAM.to_owned(),
            transfer_max: Duration::from_secs(60),
        }
    }

    fn vault() -> DatasetName {
        "tank/vault".parse().expect("a name")
    }

    #[test]
    fn properties_that_an_old_version_lacks_are_left_out_one_by_one() {
        let refuse = |name| {
            Answer::exit(2, format!("bad property list: invalid property '{name}'\nusage:\n"))
        };
        let good = Answer::stdout("tank/vault\ttype\tfilesystem\t-\ntank/vault\tguid\t5\t-\n");
        let answers = [refuse("written"), refuse("receive_resume_token"), good];
        let exec = FakeExec::default().on_args("zfs", &["get"], answers);
        let dataset = zfs(&exec, &[]).dataset(&vault()).expect("a dataset");
        assert_eq!(dataset.guid, Guid(5));
        let asked = exec.calls()[2].argv.join(" ");
        assert!(!asked.contains("written") && asked.contains("keystatus"), "{asked}");
    }

    #[test]
    fn a_dataset_that_is_not_there_is_an_answer_and_no_failure() {
        let gone = "cannot open 'tank/vault': dataset does not exist";
        let exec = FakeExec::default().on("zfs", Answer::exit(1, gone));
        assert_eq!(zfs(&exec, &[]).find(&vault()).expect("an answer"), None);
    }

    #[test]
    fn a_snapshot_that_took_the_name_of_ours_is_not_destroyed() {
        let rows = |guid: u64, source: &str| {
            let at = "tank/vault@homelab-1";
            Answer::stdout(format!(
                "{at}\tguid\t{guid}\t-\n{at}\thomelab:run\tr\t{source}\n\
                 {at}\thomelab:backup\tvault\t{source}\n"
            ))
        };
        for (answer, is_fine) in [
            (rows(7, "local"), true),
            (rows(8, "local"), false),
            (rows(7, "inherited from tank/vault"), false),
        ] {
            let exec = FakeExec::default().on_args("zfs", &["get"], [answer]).on_args(
                "zfs",
                &["destroy"],
                [Answer::default()],
            );
            let zfs = zfs(&exec, &[]);
            let done = zfs.destroy_snapshot(&vault(), "homelab-1", Guid(7), "vault");
            assert_eq!(done.is_ok(), is_fine);
            let destroyed = exec.calls().iter().any(|call| call.argv[1] == "destroy");
            assert_eq!(destroyed, is_fine);
        }
    }

    #[test]
    fn what_the_shell_of_another_host_would_take_apart_is_not_sent_there() {
        let exec = FakeExec::default().on("ssh", Answer::default());
        let zfs = zfs(&exec, &["ssh", "-oBatchMode=yes", "nas"]);
        assert_eq!(zfs.host().as_deref(), Some("nas"));
        assert!(zfs.set("safe/vault", "mountpoint=/a b").is_err());
        assert!(zfs.set("safe/vault", "x:y=$(reboot)").is_err());
        assert_eq!(exec.calls(), []);
        zfs.set("safe/vault", "readonly=on").expect("plain");
        let argv = exec.calls()[0].argv.join(" ");
        assert_eq!(argv, "ssh -oBatchMode=yes nas zfs set readonly=on safe/vault");
    }

    #[test]
    fn a_hold_that_is_there_already_is_no_failure() {
        let said = "cannot hold snapshot 'x': tag already exists on this dataset";
        let exec = FakeExec::default().on_args("zfs", &["hold"], [Answer::exit(1, said)]).on_args(
            "zfs",
            &["release"],
            [Answer::exit(1, "cannot release hold: no such tag on this dataset")],
        );
        let zfs = zfs(&exec, &[]);
        zfs.hold("tank/vault@homelab-1", "homelab-vault").expect("held");
        zfs.release("tank/vault@homelab-1", "homelab-vault").expect("released");
    }
}
