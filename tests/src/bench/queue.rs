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
    queue_peers,
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
/// Each half of a load ends after this at the latest.
const HALF_MAX: Duration = Duration::from_secs(40);
/// Looks for a job that others have locked for a moment.
const CLAIMS_MAX: u32 = 10_000;
/// How long a lease runs: longer than any load.
const LEASE: Duration = Duration::from_secs(600);
/// A row as large as that of a job with a short question.
const PGBENCH_SCRIPT: &str = "insert into raw (body) values (repeat('x', 400));\n";

const METHOD: &str = "Callers put their share of jobs in, one after the other; then as many take them out one by one and \
finish them. The job itself does nothing. Each of the three steps is a transaction that survives a power cut: three \
commits a job for every queue. PostgreSQL is a cluster of its own with `fsync = on` on a disk, with a database for each \
queue; SQLite lies on the same disk with WAL and `synchronous = FULL`. Ours is `homelab-store` in this process; \
`graphile-worker` (Node) and `procrastinate` (Python) run by their own workers with as many connections, polling and \
not notified. They do not do the same within a commit. Ours keeps the request, an event row for each state, the lease \
and the result, orders by priority, age and caller, knows tiers and models, and refuses a report of an attempt that was \
given up. procrastinate keeps the row, and by triggers an event for each state. graphile-worker deletes the row of a \
job that is done: it keeps neither history nor result. The limit is what `pgbench` commits in that very cluster, one \
insert of a row of 400 bytes for each transaction and nothing else: a third of that rate is what nobody can pass.";

/// What one load showed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) clients: u32,
    pub(super) jobs: u32,
    pub(super) put_in: Duration,
    pub(super) taken_out: Duration,
    /// CPU of the process that talks to the database; for SQLite the database itself.
    pub(super) cpu: Duration,
}

impl Rate {
    fn took(self) -> Duration {
        self.put_in + self.taken_out
    }

    fn a_second(self) -> f64 {
        f64::from(self.jobs) / self.took().as_secs_f64()
    }
}

/// A queue by its name, with one caller and with many.
type Measured = (&'static str, [Rate; 2]);

pub(super) fn measure(story: &Story, scale: Scale) -> anyhow::Result<Chapter> {
    let peers = queue_peers::find()?;
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
    let mut all: Vec<Measured> = Vec::new();
    let ours = story.step("jobs on PostgreSQL", || {
        cluster.sql("postgres", "create database homelab");
        let password = PASSWORD.replace(':', "%3A").replace('\\', "%5C");
        let port = cluster.port();
        let url = format!("postgres://{USER}:{password}@127.0.0.1:{port}/homelab");
        runtime.block_on(one_and_many(&StoreUrl::Postgres(url), jobs))
    })?;
    all.push(("homelab, PostgreSQL", ours));
    for peer in &peers {
        let rates = story.step(&format!("jobs of {}", peer.name()), || {
            interrupt::check()?;
            Ok([peer.load(cluster, 1, jobs[0])?, peer.load(cluster, MANY, jobs[1])?])
        })?;
        all.push((peer.name(), rates));
    }
    let sqlite = story.step("jobs on SQLite", || {
        runtime.block_on(one_and_many(&StoreUrl::Sqlite(folder.path().join("store.db")), jobs))
    })?;
    all.push(("homelab, SQLite", sqlite));
    Ok(chapter(&disk, raw, &all))
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
    let shares = try_join_all((0..clients).map(|_| put_in(store.as_ref(), each))).await?;
    let between = Instant::now();
    try_join_all(shares.iter().map(|share| take_out(store.as_ref(), *share))).await?;
    Ok(Rate {
        clients,
        jobs: shares.into_iter().sum(),
        put_in: between - began,
        taken_out: between.elapsed(),
        cpu: span.cpu()?,
    })
}

/// Says how many it has put in: fewer than wished for when the time was over.
async fn put_in(store: &dyn Store, each: u32) -> anyhow::Result<u32> {
    let began = Instant::now();
    for done in 0..each {
        interrupt::check()?;
        if began.elapsed() > HALF_MAX {
            return Ok(done);
        }
        let mut tx = store.begin().await?;
        let submitted = tx.jobs().submit(&job()?).await?;
        tx.commit().await?;
        ensure!(matches!(submitted, Submitted::New(_)), "a job was not taken: {submitted:?}");
    }
    Ok(each)
}

/// Takes so many out; which ones does not matter.
async fn take_out(store: &dyn Store, count: u32) -> anyhow::Result<()> {
    let claim = Claim {
        worker: HostName::try_new("cw-nas")?,
        tier: Tier::Bronze,
        models: vec![ModelName::try_new("tiny")?],
        slots: 1,
        now: SystemClock.now(),
        until: SystemClock.now() + LEASE,
    };
    for _ in 0..count {
        interrupt::check()?;
        claim_and_finish(store, &claim).await?;
    }
    Ok(())
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
        request: JobRequest::new(
            RequestForm::OpenaiChat,
            br#"{"model":"tiny","messages":[{"role":"user","content":"what is the time"}]}"#
                .to_vec(),
        ),
    })
}

fn chapter(disk: &str, raw: [f64; 2], all: &[Measured]) -> Chapter {
    let mut table = Table::new(
        &format!("Enqueue, then claim and finish, on {disk}"),
        [
            "queue",
            "callers",
            "jobs",
            "put in a second",
            "taken out a second",
            "jobs a second",
            "CPU of its process, ms a job",
            "raw commits a second (pgbench)",
            "commits of the limit",
        ],
    );
    for (name, rates) in all {
        // SQLite commits by itself, and is not held against what PostgreSQL does.
        let is_limited = !name.contains("SQLite");
        for (rate, raw) in rates.iter().zip(raw) {
            let a_second = |half: Duration| significant(f64::from(rate.jobs) / half.as_secs_f64());
            let share = ratio(rate.a_second() * COMMITS_A_JOB, raw);
            let (limit, share) = if is_limited {
                (significant(raw), share)
            } else {
                (format!("({})", significant(raw)), format!("({share})"))
            };
            table.row([
                (*name).to_owned(),
                rate.clients.to_string(),
                rate.jobs.to_string(),
                a_second(rate.put_in),
                a_second(rate.taken_out),
                significant(rate.a_second()),
                ms(rate.cpu / rate.jobs.max(1)),
                limit,
                share,
            ]);
        }
    }
    Chapter::new("Queue", METHOD, vec![table])
}
