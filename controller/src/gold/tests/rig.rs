//! A queue on a real SQLite file, workers in the house that do as their job says, and a way out.

use std::{fs, os::unix::fs::PermissionsExt as _, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use homelab_common::{
    chance::SeededChance,
    clock::{Clock, ManualClock},
    lifecycle::Tasks,
};
use homelab_domain::{
    ids::HostName,
    job::{Job, JobStateKind, RequestForm},
    site::{Site, Tier},
};
use homelab_proto::{
    common::v1::Failure,
    inference::v1::{
        ChatCompleteRequest, ChatCompleteResponse, ChatDelta, ChatDone, CompleteRequest,
        EmbedRequest, EmbedResponse, Engine, EngineState, Model, ModelState, RerankRequest,
        RerankResponse, Worker, chat_complete_response::Event,
    },
};
use homelab_rpc::status::{Reason, fail};
use homelab_store::{AuditEntry, PageRequest, Store, StoreUrl};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;
use tonic::{Code, Status};

use super::far::{Far, Recorder};
use crate::{
    app::Events,
    gold::{Gold, Parts, engines::GoldEngines, wire::Connector},
    job::{
        self, Jobs,
        engines::{Contact, Engines, Pieces, WorkerSeen},
        rig::wish,
        submission::Submission,
    },
    site::SiteFile,
    task::Driver,
};

/// How long anything that should happen may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How the workers in the house are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum House {
    Up,
    Asleep,
    Unreachable,
}

/// Workers that fail as the text of a job says: `fail:refuse`, `fail:break`, `fail:late`, `fail:silent`.
#[derive(Debug)]
struct Workers(House);

#[async_trait]
impl Engines for Workers {
    fn workers(&self) -> Arc<[WorkerSeen]> {
        let contact = match self.0 {
            House::Up => Contact::Connected,
            House::Asleep => Contact::Asleep,
            House::Unreachable => Contact::Unreachable,
        };
        [
            seen("cw-nas", Tier::Bronze, "small", contact),
            seen("x99", Tier::Silver, "large", contact),
        ]
        .into()
    }

    async fn chat(
        &self,
        _worker: &HostName,
        request: ChatCompleteRequest,
    ) -> Result<Pieces, Status> {
        let text = String::from_utf8_lossy(&request.openai_request).into_owned();
        if text.contains("fail:refuse") {
            return Err(fail(Code::Unavailable, Reason::HOST_UNREACHABLE, "gone"));
        }
        let delta = ChatDelta { content: "home".to_owned(), ..ChatDelta::default() };
        let failure = Failure {
            reason: "ENGINE_CRASHED".to_owned(),
            message: "it broke".to_owned(),
            retryable: true,
        };
        let events = match () {
            () if text.contains("fail:break") => vec![Event::Failure(failure)],
            () if text.contains("fail:late") => vec![Event::Delta(delta), Event::Failure(failure)],
            () if text.contains("fail:silent") => vec![Event::Delta(delta)],
            () => vec![Event::Delta(delta), Event::Done(ChatDone::default())],
        };
        let pieces = events.into_iter().map(|event| {
            Ok(ChatCompleteResponse { event: Some(event), openai_chunk: bytes::Bytes::new() })
        });
        Ok(stream::iter(pieces.collect::<Vec<_>>()).boxed())
    }

    async fn complete(
        &self,
        worker: &HostName,
        request: CompleteRequest,
    ) -> Result<Pieces, Status> {
        let openai_request = request.openai_request;
        self.chat(worker, ChatCompleteRequest { openai_request, ..Default::default() }).await
    }

    async fn embed(
        &self,
        _worker: &HostName,
        request: EmbedRequest,
    ) -> Result<EmbedResponse, Status> {
        Ok(EmbedResponse { openai_response: request.openai_request, ..EmbedResponse::default() })
    }

    async fn rerank(
        &self,
        _worker: &HostName,
        request: RerankRequest,
    ) -> Result<RerankResponse, Status> {
        Ok(RerankResponse { openai_response: request.openai_request, ..RerankResponse::default() })
    }
}

fn seen(host: &str, tier: Tier, model: &str, contact: Contact) -> WorkerSeen {
    let worker = Worker {
        host: host.to_owned(),
        engines: vec![Engine {
            state: EngineState::Ready.into(),
            model: model.to_owned(),
            slots: 8,
            ..Engine::default()
        }],
        models: vec![Model {
            name: model.to_owned(),
            state: ModelState::Loaded.into(),
            slots: Some(8),
            ..Model::default()
        }],
        ..Worker::default()
    };
    WorkerSeen {
        host: HostName::try_new(host).expect("a name"),
        tier,
        contact,
        last_seen_at: None,
        worker: Some(Arc::new(worker)),
        drained: false,
        message: String::new(),
    }
}

/// A queue with a way out.
pub(super) struct Rig {
    pub(super) jobs: Jobs,
    pub(super) gold: Gold,
    pub(super) far: Arc<Far>,
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: ManualClock,
    pub(super) tasks: Tasks,
    pub(super) folder: tempfile::TempDir,
    _site: watch::Sender<Arc<Site>>,
}

/// A rule of the site file.
pub(super) fn rule(name: &str, classes: &str, action: &str) -> String {
    format!("[[ai.rule]]\nname = \"{name}\"\nclasses = [{classes}]\naction = \"{action}\"\n")
}

/// Plain text may leave, and names as pseudonyms.
pub(super) fn usual() -> String {
    rule("plain", "\"plain\"", "allow")
        + &rule("names", "\"host-name\", \"private-address\", \"secret\"", "pseudonymise")
}

impl Rig {
    /// With rules, and 1.00 a day to spend.
    pub(super) async fn new(rules: &str) -> Self {
        Self::with(rules, "1.00", House::Up).await
    }

    pub(super) async fn with(rules: &str, day: &str, house: House) -> Self {
        let far = Arc::new(Far::default());
        let tasks = Tasks::default();
        let out = Arc::new(Recorder(Arc::clone(&far), tasks.clone()));
        Self::on(rules, day, house, far, tasks, "https://api.far.example/v1", None, |_| out).await
    }

    #[expect(clippy::too_many_arguments, reason = "each test changes another one")]
    pub(super) async fn on(
        rules: &str,
        day: &str,
        house: House,
        far: Arc<Far>,
        tasks: Tasks,
        url: &str,
        ca_file: Option<&str>,
        out: impl FnOnce(Arc<dyn Clock>) -> Arc<dyn Connector>,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let key = folder.path().join("far.key");
        fs::write(&key, "sk-far-key\n").expect("writable");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("ours");
        let url_of_store = StoreUrl::Sqlite(folder.path().join("store.db"));
        let store = homelab_store::open(&url_of_store).await.expect("opens");
        let now = Timestamp::from_second(1_790_000_000).expect("a moment");
        let clock = ManualClock::new(now);
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let text = site(rules, day, url, &key.display().to_string(), ca_file);
        let file =
            SiteFile::parse("homelab.toml", &text, now).unwrap_or_else(|why| panic!("{why}"));
        let (site, watched) = watch::channel(file.site);
        let chance = Arc::new(SeededChance::new(7));
        let gold = Gold::new(Parts {
            store: Arc::clone(&store),
            clock: Arc::clone(&shared),
            tasks: tasks.clone(),
            site: watched.clone(),
            connector: out(Arc::clone(&shared)),
        });
        let engines = GoldEngines::new(Arc::new(Workers(house)), gold.clone());
        let jobs = Jobs::new(job::Parts {
            store: Arc::clone(&store),
            clock: Arc::clone(&shared),
            chance: chance.clone(),
            tasks: tasks.clone(),
            driver: Driver::new(tasks.clone(), shared, chance),
            site: watched,
            engines: Arc::new(engines),
            events: Events::default(),
            limits: crate::config::QUEUE,
        });
        jobs.start();
        Self { jobs, gold, far, store, clock, tasks, folder, _site: site }
    }

    /// Another controller over the same store, as after a crash of the first.
    pub(super) fn next_controller(&self) -> (Jobs, Tasks) {
        let tasks = Tasks::default();
        let parts = self.jobs.parts();
        let gold = Gold::new(Parts {
            tasks: tasks.clone(),
            connector: Arc::new(Recorder(Arc::clone(&self.far), tasks.clone())),
            ..self.gold.0.parts.clone()
        });
        let (clock, chance) = (Arc::clone(&parts.clock), Arc::clone(&parts.chance));
        let jobs = Jobs::new(job::Parts {
            driver: Driver::new(tasks.clone(), clock, chance),
            tasks: tasks.clone(),
            engines: Arc::new(GoldEngines::new(Arc::new(Workers(House::Up)), gold)),
            ..parts.clone()
        });
        jobs.start();
        (jobs, tasks)
    }

    /// Submits and waits for the end.
    pub(super) async fn run(&self, submission: Submission) -> (Job, String) {
        let accepted = self.jobs.submit(submission).await.expect("taken");
        let job = self.ended(accepted.job.id()).await;
        let answer = self.jobs.answer(job.id()).await.expect("readable");
        (job, answer)
    }

    pub(super) async fn ended(&self, id: homelab_domain::ids::JobId) -> Job {
        self.until(id, JobStateKind::is_final).await
    }

    /// Waits until so many of these have ended.
    pub(super) async fn ended_of(
        &self,
        ids: &[homelab_domain::ids::JobId],
        count: usize,
    ) -> Vec<Job> {
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                let mut ended = Vec::new();
                for id in ids {
                    let (job, _) = self.jobs.get(*id).await.expect("readable").expect("is there");
                    ended.extend(Some(job).filter(|job| job.state().kind().is_final()));
                }
                if ended.len() >= count {
                    return ended;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        waited.await.expect("so many end")
    }

    pub(super) async fn until(
        &self,
        id: homelab_domain::ids::JobId,
        holds: impl Fn(JobStateKind) -> bool,
    ) -> Job {
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                let (job, _) = self.jobs.get(id).await.expect("readable").expect("is there");
                if holds(job.state().kind()) {
                    return job;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        waited.await.unwrap_or_else(|_| panic!("job {id} does not get there"))
    }

    /// The audit entries about what left or stayed, oldest first.
    pub(super) async fn audit(&self) -> Vec<AuditEntry> {
        let page = PageRequest::try_new(100, "").expect("a page");
        let mut entries =
            crate::audit::list(self.store.as_ref(), None, &page).await.expect("readable").items;
        entries.retain(|entry| entry.entry.action.starts_with("gold."));
        entries.reverse();
        entries
    }

    /// What the first budget still holds, in millionths.
    pub(super) async fn left(&self) -> u64 {
        self.gold.budgets().await.expect("readable")[0].left().micros()
    }

    /// Waits until everything that left is settled.
    pub(super) async fn settled(&self) -> Vec<homelab_store::GoldCall> {
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                let calls = self.gold.newest(100).await.expect("readable");
                if calls.iter().all(|call| call.settlement.is_some()) {
                    return calls;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        waited.await.expect("all is settled")
    }
}

/// A job for a model, with the text of its one message.
pub(super) fn asks(number: u128, model: &str, text: &str) -> Submission {
    let body = json!({"model": model, "messages": [{"role": "user", "content": text}]});
    of_body(number, model, &body)
}

pub(super) fn of_body(number: u128, model: &str, body: &Value) -> Submission {
    let mut submission = wish(number, model);
    submission.request.form = RequestForm::OpenaiChat;
    submission.request.bytes = body.to_string().into_bytes();
    submission.tiers_allowed = vec![Tier::Bronze, Tier::Silver, Tier::Gold];
    submission
}

fn site(rules: &str, day: &str, url: &str, key: &str, ca_file: Option<&str>) -> String {
    let ca_file = ca_file.map_or_else(String::new, |path| format!("ca-file = \"{path}\"\n"));
    format!(
        r#"
[site]
name = "home"
domain = "thuis.example"
[[host]]
name = "cw-nas"
address = "192.168.200.30"
daemons = ["gpu-worker"]
[[host]]
name = "x99"
address = "192.168.200.40"
expected-power = "on-demand"
mac = "02:00:00:00:00:01"
daemons = ["gpu-worker"]
[[ai.tier]]
tier = "bronze"
hosts = ["cw-nas"]
models = ["small"]
default-model = "small"
[[ai.tier]]
tier = "silver"
hosts = ["x99"]
models = ["large"]
[[ai.tier]]
tier = "gold"
models = ["far-small"]
[[ai.provider]]
name = "far"
url = "{url}"
key = "{key}"
{ca_file}
[[ai.provider.model]]
name = "far-small"
upstream = "org/far-1"
input-price = "1.00"
output-price = "10.00"
context = 8000
output-tokens-max = 1000
[[ai.budget]]
name = "house"
day = "{day}"
{rules}
"#
    )
}
