//! The durable queue, job by job: enqueue, claim, finish, each committed.

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use futures_util::future::try_join_all;
use homelab_common::{
    chance::{SystemChance, uuid_v7},
    clock::{Clock as _, SystemClock},
};
use homelab_domain::{
    ids::{HostName, ModelName},
    job::{JobRequest, JobSpec, Outcome, Priority, Record, RequestForm, Terms, Usage},
    site::Tier,
};
use homelab_store::{Claim, Store, StoreUrl, Submitted, open};

use super::{
    Scale,
    durable::{Durable, file_system},
    interrupt,
    measure::Span,
    report::{Chapter, Table, ms, ratio, significant},
};
use crate::{
    demo::Story,
    postgres::{Cluster, PASSWORD, USER, run as run_program},
};

/// Transactions that are committed for each job.
const COMMITS_A_JOB: f64 = 3.0;
/// Callers at once, beside one alone.
const MANY: u32 = 8;
/// Each load ends after this at the latest.
const LOAD_MAX: Duration = Duration::from_secs(40);
/// Looks for a job that others have locked for a moment.
const CLAIMS_MAX: u32 = 10_000;
/// How long a lease runs: longer than any load.
const LEASE: Duration = Duration::from_secs(600);
/// A row as large as that of a job with a short question.
const PGBENCH_SCRIPT: &str = "insert into raw (body) values (repeat('x', 400));\n";

const METHOD: &str = "`homelab-store` in this process, three transactions a job: submit, claim, finish \
with its event rows. PostgreSQL is a cluster of its own with `fsync = on` on a disk; SQLite \
lies on the same one with WAL and `synchronous = FULL`. The limit is what `pgbench` commits in that very \
cluster: one insert of a row of 400 bytes for each transaction, nothing else. A job costs three commits, \
so a third of the raw rate is what nobody can pass; \"of the limit\" is the share of it.";

/// What one load showed.
#[derive(Clone, Copy, Debug)]
struct Rate {
    clients: u32,
    jobs: u32,
    took: Duration,
    /// CPU of this process: the store, and SQLite itself.
    cpu: Duration,
}

impl Rate {
    fn a_second(self) -> f64 {
        f64::from(self.jobs) / self.took.as_secs_f64()
    }
}

pub(super) fn measure(story: &Story, scale: Scale) -> anyhow::Result<Chapter> {
    let folder = tempfile::Builder::new().prefix("homelab-bench-").tempdir()?;
    let disk = file_system(folder.path())?;
    let durable = story.step("a PostgreSQL with fsync", || Durable::start(folder.path()))?;
    let cluster = durable.cluster();
    let raw = story.step("pgbench commits", || {
        cluster.sql("postgres", "create database raw");
        cluster.sql("raw", "create table raw (id bigserial primary key, body text not null)");
        let each = scale.pick(2_000, 300);
        Ok([
            commits(cluster, folder.path(), 1, each)?,
            commits(cluster, folder.path(), MANY, each / 2)?,
        ])
    })?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let jobs = [scale.pick(600, 100), scale.pick(1_600, 200)];
    let postgres = story.step("jobs on PostgreSQL", || {
        cluster.sql("postgres", "create database homelab");
        let password = PASSWORD.replace(':', "%3A").replace('\\', "%5C");
        let port = cluster.port();
        let url = format!("postgres://{USER}:{password}@127.0.0.1:{port}/homelab");
        runtime.block_on(one_and_many(&StoreUrl::Postgres(url), jobs))
    })?;
    let sqlite = story.step("jobs on SQLite", || {
        runtime.block_on(one_and_many(&StoreUrl::Sqlite(folder.path().join("store.db")), jobs))
    })?;
    Ok(chapter(&disk, raw, postgres, sqlite))
}

/// Raw commits a second.
fn commits(cluster: &Cluster, folder: &Path, clients: u32, each: u32) -> anyhow::Result<f64> {
    let script = folder.join("insert.sql");
    fs::write(&script, PGBENCH_SCRIPT).context("write the script")?;
    let output = run_program(cluster.client("pgbench", "raw").args([
        "--no-vacuum",
        "--client",
        &clients.to_string(),
        "--transactions",
        &each.to_string(),
        "--file",
        &script.display().to_string(),
    ]));
    let text = output.text();
    let rate = text.lines().find_map(|line| {
        line.strip_prefix("tps = ")?.split_ascii_whitespace().next()?.parse().ok()
    });
    rate.with_context(|| format!("pgbench tells no rate: {text}"))
}

async fn one_and_many(url: &StoreUrl, jobs: [u32; 2]) -> anyhow::Result<[Rate; 2]> {
    let store = open(url).await?;
    // Connections and prepared statements are there then.
    let _warm = load(&store, MANY, 10).await?;
    let rates = [load(&store, 1, jobs[0]).await?, load(&store, MANY, jobs[1] / MANY).await?];
    store.close().await;
    Ok(rates)
}

async fn load(store: &Arc<dyn Store>, clients: u32, each: u32) -> anyhow::Result<Rate> {
    let span = Span::begin(std::process::id())?;
    let began = Instant::now();
    let working = (0..clients).map(|_| work(store.as_ref(), each, began));
    let jobs = try_join_all(working).await?.into_iter().sum();
    Ok(Rate { clients, jobs, took: began.elapsed(), cpu: span.cpu()? })
}

/// Puts jobs in and takes as many out; which ones does not matter.
async fn work(store: &dyn Store, each: u32, began: Instant) -> anyhow::Result<u32> {
    let claim = Claim {
        worker: HostName::try_new("cw-nas")?,
        tier: Tier::Bronze,
        models: vec![ModelName::try_new("tiny")?],
        slots: 1,
        now: SystemClock.now(),
        until: SystemClock.now() + LEASE,
    };
    for done in 0..each {
        interrupt::check()?;
        if began.elapsed() > LOAD_MAX {
            return Ok(done);
        }
        let mut tx = store.begin().await?;
        let submitted = tx.jobs().submit(&job()?).await?;
        tx.commit().await?;
        ensure!(matches!(submitted, Submitted::New(_)), "a job was not taken: {submitted:?}");
        claim_and_finish(store, &claim).await?;
    }
    Ok(each)
}

async fn claim_and_finish(store: &dyn Store, claim: &Claim) -> anyhow::Result<()> {
    for _ in 0..CLAIMS_MAX {
        let mut tx = store.begin().await?;
        let given = tx.jobs().claim(claim).await?;
        tx.commit().await?;
        let Some(job) = given.first() else { continue };
        let attempt = job.state().lease().context("a lease")?.attempt;
        let outcome = Outcome::Succeeded { usage: Usage::default() };
        let mut tx = store.begin().await?;
        let _job = tx.jobs().finish(job.id(), attempt, outcome, SystemClock.now()).await?;
        tx.commit().await?;
        return Ok(());
    }
    bail!("no job was given in {CLAIMS_MAX} claims")
}

fn job() -> anyhow::Result<JobSpec> {
    Ok(JobSpec {
        id: uuid_v7(&SystemClock, &SystemChance).into(),
        model: ModelName::try_new("tiny")?,
        tier: Tier::Bronze,
        priority: Priority::DEFAULT,
        submitted_by: "key/bench".to_owned(),
        submitted_at: SystemClock.now(),
        deadline: None,
        tokens_max: Some(64),
        record: Record::Full,
        title: "what is the time".to_owned(),
        terms: Terms::default(),
        own_ahead: 0,
        request: JobRequest {
            form: RequestForm::OpenaiChat,
            bytes: br#"{"model":"tiny","messages":[{"role":"user","content":"what is the time"}]}"#
                .to_vec(),
        },
    })
}

fn chapter(disk: &str, raw: [f64; 2], postgres: [Rate; 2], sqlite: [Rate; 2]) -> Chapter {
    let mut table = Table::new(
        &format!("Enqueue → claim → finish, on {disk}"),
        [
            "store",
            "callers",
            "jobs",
            "jobs a second",
            "ms a job and caller",
            "CPU of store, ms a job",
            "commits a second",
            "raw commits a second (pgbench)",
            "of the limit",
        ],
    );
    for (name, rates, has_limit) in
        [("PostgreSQL, fsync on", postgres, true), ("SQLite, WAL, FULL", sqlite, false)]
    {
        for (rate, raw) in rates.into_iter().zip(raw) {
            let commits = rate.a_second() * COMMITS_A_JOB;
            let each = rate.took.mul_f64(f64::from(rate.clients) / f64::from(rate.jobs.max(1)));
            let (limit, share) = if has_limit {
                (significant(raw), ratio(commits, raw))
            } else {
                (format!("({})", significant(raw)), format!("({})", ratio(commits, raw)))
            };
            table.row([
                name.to_owned(),
                rate.clients.to_string(),
                rate.jobs.to_string(),
                significant(rate.a_second()),
                ms(each),
                ms(rate.cpu / rate.jobs.max(1)),
                significant(commits),
                limit,
                share,
            ]);
        }
    }
    Chapter::new("Queue", METHOD, vec![table])
}
