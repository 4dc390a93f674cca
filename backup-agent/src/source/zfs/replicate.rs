//! Brings a copy in another pool up to date.
//!
//! `zfs send` here, `zfs receive -s -u` there, and this process between the two, so
//! that the stream is looked at while it passes and either end's failure ends the
//! other. Whatever is interrupted goes on from its resume token at the next run. At
//! the end the copy is asked for the snapshot by its guid: that the programs ended
//! well is not taken as proof.

use std::io::{Read, Write};

use homelab_common::error_chain::Chain;

use super::{
    ZfsError,
    capability::Capabilities,
    inventory::{Dataset, Snapshot},
    manifest::ReplicaFacts,
    names::{DatasetName, Guid},
    plan::{self, How, Replica},
    program::{Marks, Running, Zfs, failed},
    stream::{Expected, Watched},
};

/// Throw away a half, resume an older one, send the newest: no run takes more steps.
const STEPS_MAX: usize = 4;

/// How much is moved at once, in bytes.
const CHUNK: usize = 1 << 20;

/// Both ends of a replication.
#[derive(Clone, Debug)]
pub(super) struct Replication {
    /// Where the dataset is.
    pub(super) source: Zfs,
    /// What that can do.
    pub(super) source_can: Capabilities,
    /// Where the copy is.
    pub(super) target: Zfs,
    /// What that can do.
    pub(super) target_can: Capabilities,
    /// The dataset.
    pub(super) dataset: DatasetName,
    /// The copy.
    pub(super) replica: DatasetName,
    /// Options of `zfs send`.
    pub(super) options: String,
    /// Whose snapshot it is.
    pub(super) marks: Marks,
}

impl Replication {
    /// Sends what is missing until the copy has the snapshot `to`. Blocks.
    ///
    /// # Errors
    ///
    /// A person has to decide, or one of the ends failed; what was received stays for
    /// the next run to go on from, where both versions of `zfs` can.
    pub(super) fn run(&self, to: Guid, running: &Running) -> Result<ReplicaFacts, ZfsError> {
        let mut sent_bytes = 0;
        let mut because = Vec::new();
        for _ in 0..STEPS_MAX {
            let source = self.source.dataset(&self.dataset)?;
            let gone = || ZfsError::NotOurs { name: format!("{}@{to}", self.dataset) };
            let newest = source.by_guid(to).ok_or_else(gone)?;
            let copy = self.copy()?;
            let transfer = plan::replicate(&source, newest, copy.as_ref())?;
            because.push(transfer.because);
            match &transfer.how {
                How::Nothing => {
                    return Ok(ReplicaFacts {
                        dataset: self.replica.clone(),
                        host: self.target.host(),
                        guid: to,
                        how: because.join("; then "),
                        sent_bytes,
                    });
                }
                How::Discard => self.target.discard_partial(&self.replica)?,
                how => sent_bytes += self.step(&source, newest, how, copy.is_none(), running)?,
            }
        }
        Err(ZfsError::NotThere { replica: self.replica.clone(), guid: to })
    }

    /// The copy as it is now.
    fn copy(&self) -> Result<Option<Replica>, ZfsError> {
        let Some(dataset) = self.target.find(&self.replica)? else { return Ok(None) };
        let token = dataset.value("receive_resume_token").map(str::to_owned);
        // The sender explains it: only there it shows whether its snapshot still exists.
        let token = token.map(|text| self.source.explain(&text)).transpose()?;
        Ok(Some(Replica { dataset, token }))
    }

    /// One stream from end to end.
    fn step(
        &self,
        source: &Dataset,
        newest: &Snapshot,
        how: &How,
        is_new: bool,
        running: &Running,
    ) -> Result<u64, ZfsError> {
        let snapshot = match how {
            How::Resume(token) => source.by_guid(token.to).unwrap_or(newest),
            _ => newest,
        };
        let raw = source.encryption().is_some();
        let expected = Expected { to: snapshot.guid, from: how.from(), raw };
        let bytes = self.pipe(&snapshot.name, how, expected, is_new, running)?;
        let copy = self.target.dataset(&self.replica)?;
        let Some(received) = copy.by_guid(snapshot.guid) else {
            return Err(ZfsError::NotThere { replica: self.replica.clone(), guid: snapshot.guid });
        };
        let full = self.replica.at(&received.name);
        self.target.mark(&full, &self.marks)?;
        if is_new && !self.target_can.can_set_on_receive() {
            self.target.set(self.replica.as_str(), "readonly=on")?;
        }
        Ok(bytes)
    }

    fn pipe(
        &self,
        snapshot: &str,
        how: &How,
        expected: Expected,
        is_new: bool,
        running: &Running,
    ) -> Result<u64, ZfsError> {
        let mut options = vec!["-u"];
        if self.target_can.can_resume() && self.source_can.can_resume() {
            options.push("-s");
        }
        // A copy that is mounted and written to cannot be added to any more.
        if is_new && self.target_can.can_set_on_receive() {
            options.extend(["-o", "readonly=on"]);
        }
        let sending = self.source.send(&self.dataset, snapshot, how, &self.options)?;
        let mut receiving = self.target.receive(&self.replica, &options)?;
        running.add(sending.killer());
        running.add(receiving.killer());
        let mut sink = receiving.take_stdin().unwrap_or_else(|| Box::new(std::io::sink()));
        let mut stream = Watched::new(sending, expected);
        let moved = move_all(&mut stream, &mut sink, running);
        // The end of its input lets the receiver keep what it got so far.
        drop(sink);
        let bytes = stream.passed_bytes();
        let received = receiving.finish();
        if running.is_cancelled() {
            return Err(ZfsError::Cancelled);
        }
        match (moved, received) {
            (Ok(()), Ok(_)) => Ok(bytes),
            // What the sender said of its own end is the cause; else what the receiver said.
            (Err(Moving::Read(source)), _) => {
                let replica = self.replica.clone();
                Err(ZfsError::Interrupted { replica, bytes, resumes: self.resumes(), source })
            }
            (_, Err(source)) => Err(failed(&format!("receive `{}`", self.replica), source)),
            (Err(Moving::Write(source)), Ok(_)) => {
                let replica = self.replica.clone();
                Err(ZfsError::Interrupted { replica, bytes, resumes: self.resumes(), source })
            }
        }
    }

    fn resumes(&self) -> bool {
        self.target_can.can_resume() && self.source_can.can_resume()
    }

    /// Holds the last common snapshot at the copy, and lets older ones of ours go.
    /// What fails is said and tried again by the next run.
    #[must_use]
    pub(super) fn hold(&self, to: Guid) -> Vec<String> {
        let backup = &self.marks.backup;
        move_holds(&self.target, &self.replica, &[to], &super::tag(backup), backup)
    }
}

/// Holds the snapshots `keep` of `name` by `tag`, and takes the tag from every other
/// snapshot of this backup. Gives what could not be done.
#[must_use]
pub(super) fn move_holds(
    zfs: &Zfs,
    name: &DatasetName,
    keep: &[Guid],
    tag: &str,
    backup: &str,
) -> Vec<String> {
    let dataset = match zfs.dataset(name) {
        Ok(dataset) => dataset,
        Err(error) => return vec![Chain(&error).to_string()],
    };
    let is_ours = |it: &&Snapshot| it.owner.as_ref().is_some_and(|owner| owner.backup == backup);
    // First hold the new, then let go of the old: there is never a moment without.
    let (held, free): (Vec<_>, Vec<_>) =
        dataset.snapshots.iter().filter(is_ours).partition(|it| keep.contains(&it.guid));
    let holding = held.iter().map(|it| zfs.hold(&name.at(&it.name), tag));
    let releasing = free.iter().filter(|it| it.holds > 0);
    let releasing = releasing.map(|it| zfs.release(&name.at(&it.name), tag));
    let failed = holding.chain(releasing).filter_map(Result::err);
    failed.map(|error| Chain(&error).to_string()).collect()
}

enum Moving {
    Read(std::io::Error),
    Write(std::io::Error),
}

fn move_all(from: &mut dyn Read, to: &mut dyn Write, running: &Running) -> Result<(), Moving> {
    let mut buffer = vec![0; CHUNK];
    loop {
        if running.is_cancelled() {
            return Ok(());
        }
        match from.read(&mut buffer) {
            Ok(0) => return to.flush().map_err(Moving::Write),
            Ok(size) => to.write_all(&buffer[..size]).map_err(Moving::Write)?,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Moving::Read(error)),
        }
    }
}
