//! Our backup agent, asked over mTLS.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use homelab_proto::backup::v1::{
    DrillReport, DrillVerdict, RunBackupRequest, RunDrillRequest, VerifyRepositoryRequest,
    backup_service_client::BackupServiceClient, run_backup_response, run_drill_response,
    verify_repository_response,
};
use tokio::time::timeout;

use crate::{
    bench::{
        grpc::Way,
        interrupt,
        measure::{cpu_of_family, forget_peak, memory, size_of},
        pipeline::Cost,
    },
    lab::{BACKUP, Daemon, Lab},
};

/// A benchmark that hangs must end.
const RUN_MAX: Duration = Duration::from_secs(300);

/// The agent, and where its repository lies.
#[derive(Debug)]
pub(super) struct Agent {
    way: Way,
    pid: u32,
    repository: PathBuf,
}

/// One run of a backup.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) cost: Cost,
    /// What the repository grew by, in bytes.
    pub(super) growth: u64,
    /// What it did, and for how long.
    pub(super) steps: Vec<(String, Duration)>,
}

/// One drill.
#[derive(Debug)]
pub(super) struct Drill {
    pub(super) cost: Cost,
    pub(super) report: DrillReport,
}

/// What goes on since when.
#[derive(Debug, Default)]
struct Steps {
    done: Vec<(String, Duration)>,
    now: Option<(String, Instant)>,
}

impl Steps {
    fn see(&mut self, step: &str) {
        if self.now.as_ref().is_some_and(|(now, _)| now == step) {
            return;
        }
        let began = Instant::now();
        if let Some((name, since)) = self.now.replace((step.to_owned(), began)) {
            self.done.push((name, began - since));
        }
    }
}

impl Agent {
    pub(super) fn of(lab: &mut Lab) -> anyhow::Result<Self> {
        let way = Way::to(lab, "hx310-db", Daemon::BackupAgent)?;
        let pid = lab.process("hx310-db/backup-agent")?.pid();
        Ok(Self { way, pid, repository: lab.folder().join("nas") })
    }

    /// Runs the backup to its proved end.
    pub(super) async fn back_up(&self) -> anyhow::Result<Run> {
        let before = size_of(&self.repository)?;
        let mut steps = Steps::default();
        let cost = self.counted(timeout(RUN_MAX, self.follow_backup(&mut steps))).await?;
        let growth = size_of(&self.repository)?.saturating_sub(before);
        Ok(Run { cost: cost.0, growth, steps: steps.done })
    }

    async fn follow_backup(&self, steps: &mut Steps) -> anyhow::Result<()> {
        use run_backup_response::Event;
        let mut client = BackupServiceClient::new(self.way.channel()?);
        let request = RunBackupRequest { backup: BACKUP.to_owned(), ..RunBackupRequest::default() };
        steps.see("call and first sign of life");
        let mut stream = client.run_backup(request).await?.into_inner();
        while let Some(message) = stream.message().await? {
            interrupt::check()?;
            match message.event {
                Some(Event::Progress(progress)) => steps.see(&progress.step),
                Some(Event::Snapshot(_)) => {
                    steps.see("end");
                    return Ok(());
                }
                other => bail!("the backup ended with {other:?}"),
            }
        }
        bail!("the stream ended without an end")
    }

    /// Reads and checks every byte of the repository.
    pub(super) async fn verify(&self) -> anyhow::Result<Cost> {
        Ok(self.counted(timeout(RUN_MAX, self.follow_verification())).await?.0)
    }

    async fn follow_verification(&self) -> anyhow::Result<()> {
        use verify_repository_response::Event;
        let mut client = BackupServiceClient::new(self.way.channel()?);
        let request = VerifyRepositoryRequest {
            repository: "nas".to_owned(),
            read_data: true,
            ..VerifyRepositoryRequest::default()
        };
        let mut stream = client.verify_repository(request).await?.into_inner();
        while let Some(message) = stream.message().await? {
            interrupt::check()?;
            match message.event {
                Some(Event::Progress(_)) => (),
                Some(Event::Report(report)) => {
                    ensure!(report.sound, "the repository is not sound: {:?}", report.problems);
                    return Ok(());
                }
                other => bail!("the verification ended with {other:?}"),
            }
        }
        bail!("the stream ended without an end")
    }

    /// Runs a drill of the newest snapshot.
    pub(super) async fn drill(&self) -> anyhow::Result<Drill> {
        let (cost, report) = self.counted(timeout(RUN_MAX, self.follow_drill())).await?;
        ensure!(
            report.verdict() == DrillVerdict::Passed,
            "the drill did not pass: {:?}",
            report.findings
        );
        Ok(Drill { cost, report })
    }

    async fn follow_drill(&self) -> anyhow::Result<DrillReport> {
        use run_drill_response::Event;
        let mut client = BackupServiceClient::new(self.way.channel()?);
        let request = RunDrillRequest { backup: BACKUP.to_owned(), ..RunDrillRequest::default() };
        let mut stream = client.run_drill(request).await?.into_inner();
        while let Some(message) = stream.message().await? {
            interrupt::check()?;
            match message.event {
                Some(Event::Progress(_)) => (),
                Some(Event::Report(report)) => return Ok(report),
                other => bail!("the drill ended with {other:?}"),
            }
        }
        bail!("the stream ended without an end")
    }

    async fn counted<T>(
        &self,
        work: impl Future<Output = Result<anyhow::Result<T>, tokio::time::error::Elapsed>>,
    ) -> anyhow::Result<(Cost, T)> {
        forget_peak(self.pid)?;
        let cpu = cpu_of_family(self.pid)?;
        let began = Instant::now();
        let done = work.await.context("wait for the run")??;
        let wall = began.elapsed();
        let cpu = cpu_of_family(self.pid)?.saturating_sub(cpu);
        Ok((Cost { wall, cpu, rss_peak: memory(self.pid)?.peak, ..Cost::default() }, done))
    }
}
