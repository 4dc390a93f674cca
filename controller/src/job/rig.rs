//! A queue on a real SQLite file with scripted engines and a clock that is moved by hand.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use homelab_common::{chance::SeededChance, clock::ManualClock, lifecycle::Tasks};
use homelab_domain::{
    ids::{HostName, JobId, ModelName},
    job::{Job, JobRequest, JobStateKind, Record, RequestForm, Terms},
    queue::QueueLimits,
    site::{Site, Tier},
};
use homelab_proto::{
    common::v1::Failure,
    inference::v1::{
        ChatCompleteRequest, ChatCompleteResponse, ChatDelta, ChatDone, CompleteRequest,
        EmbedRequest, EmbedResponse, Engine, EngineState, Model, ModelState, RerankRequest,
        RerankResponse, Usage, Worker, chat_complete_response::Event,
    },
};
use homelab_rpc::status::{Reason, fail};
use homelab_store::{Store, StoreUrl};
use jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tonic::{Code, Status};
use uuid::Uuid;

use super::{
    Jobs, Parts,
    dispatch::Dispatcher,
    engines::{Contact, Engines, Pieces, WorkerSeen},
    lock,
    submission::Submission,
};
use crate::{
    app::Events,
    site::SiteFile,
    task::{BackgroundTask as _, Driver},
};

const SITE: &str = r#"
[site]
name = "home"
[[host]]
name = "cw-nas"
address = "192.0.2.30"
daemons = ["gpu-worker"]
[[host]]
name = "x99"
address = "192.0.2.40"
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
"#;

/// How long anything that should happen may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What an engine does for one request, in order. After the last step the stream ends.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A piece of text with the engine's own JSON.
    Say(&'static str, &'static str),
    /// Nothing, until the test goes on.
    Pause,
    /// Nothing, for ever.
    Hang,
    /// It is complete.
    Done,
    /// It breaks off; whether trying again may help.
    Break(&'static str, bool),
    /// The call itself is refused.
    Refuse(Code, Reason),
}

/// Engines that do what they are told.
#[derive(Debug)]
pub(crate) struct Scripted {
    workers: Mutex<Arc<[WorkerSeen]>>,
    scripts: Mutex<VecDeque<Vec<Step>>>,
    requests: Mutex<Vec<ChatCompleteRequest>>,
    busy: Arc<AtomicU32>,
    gate: Arc<Notify>,
    changes: Mutex<Vec<String>>,
}

/// Counts a request as running until its stream is dropped.
struct Busy(Arc<AtomicU32>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Scripted {
    /// What the next request gets that has no script yet.
    pub(crate) fn script(&self, steps: Vec<Step>) {
        lock(&self.scripts).push_back(steps);
    }

    /// Lets a script that pauses go on.
    pub(crate) fn go_on(&self) {
        self.gate.notify_one();
    }

    /// Requests that run now.
    pub(crate) fn busy(&self) -> u32 {
        self.busy.load(Ordering::SeqCst)
    }

    /// Every request so far.
    pub(crate) fn requests(&self) -> Vec<ChatCompleteRequest> {
        lock(&self.requests).clone()
    }

    /// What was to be loaded and unloaded, in order.
    pub(crate) fn changes(&self) -> Vec<String> {
        lock(&self.changes).clone()
    }

    /// The worker of bronze has one engine, which holds `held` of its two models.
    pub(crate) fn one_engine_holds(&self, held: &str) {
        let engine = "first".to_owned();
        let model = |name: &str| {
            let is_held = name == held;
            let state = if is_held { ModelState::Loaded } else { ModelState::Unloaded };
            Model {
                name: name.to_owned(),
                state: state.into(),
                engine: if is_held { engine.clone() } else { String::new() },
                slots: Some(1),
                engines: vec![engine.clone()],
                ..Default::default()
            }
        };
        let mut workers = lock(&self.workers);
        let mut seen = workers.to_vec();
        if let Some(worker) =
            seen.first_mut().and_then(|seen| seen.worker.as_mut()).map(Arc::make_mut)
        {
            worker.models = vec![model("small"), model("other")];
            worker.engines = vec![Engine {
                name: engine.clone(),
                state: EngineState::Ready.into(),
                model: held.to_owned(),
                slots: 1,
                devices: vec!["0000:03:00.0".to_owned()],
                ..Default::default()
            }];
        }
        *workers = seen.into();
    }

    pub(crate) fn contact(&self, host: &str, contact: Contact) {
        let mut workers = lock(&self.workers);
        let changed = workers.iter().cloned().map(|mut seen| {
            if seen.host.as_str() == host {
                seen.contact = contact;
            }
            seen
        });
        *workers = changed.collect();
    }
}

#[async_trait]
impl Engines for Scripted {
    fn workers(&self) -> Arc<[WorkerSeen]> {
        Arc::clone(&lock(&self.workers))
    }

    async fn chat(
        &self,
        _worker: &HostName,
        request: ChatCompleteRequest,
    ) -> Result<Pieces, Status> {
        lock(&self.requests).push(request);
        let steps = lock(&self.scripts).pop_front().unwrap_or_else(|| vec![Step::Done]);
        if let Some(Step::Refuse(code, reason)) = steps.first() {
            return Err(fail(*code, *reason, "refused by the script"));
        }
        self.busy.fetch_add(1, Ordering::SeqCst);
        let gate = Arc::clone(&self.gate);
        let state = (VecDeque::from(steps), 0, (Busy(Arc::clone(&self.busy)), gate));
        let pieces = stream::unfold(state, |(mut steps, index, busy)| async move {
            while matches!(steps.front(), Some(Step::Pause)) {
                busy.1.notified().await;
                steps.pop_front();
            }
            let (event, openai_chunk) = match steps.pop_front()? {
                Step::Say(content, chunk) => {
                    let delta =
                        ChatDelta { content: content.to_owned(), index, ..Default::default() };
                    (Event::Delta(delta), chunk)
                }
                Step::Hang | Step::Pause => std::future::pending().await,
                Step::Done => {
                    let usage = Usage {
                        completion_tokens: Some(2),
                        energy_joules: Some(1.5),
                        ..Default::default()
                    };
                    let finish_reason = "stop".to_owned();
                    (Event::Done(ChatDone { finish_reason, usage: Some(usage) }), "")
                }
                Step::Break(reason, retryable) => {
                    let message = "the engine broke".to_owned();
                    (Event::Failure(Failure { reason: reason.to_owned(), message, retryable }), "")
                }
                Step::Refuse(code, reason) => {
                    return Some((Err(fail(code, reason, "refused")), (steps, index, busy)));
                }
            };
            let response = ChatCompleteResponse {
                event: Some(event),
                openai_chunk: bytes::Bytes::from_static(chunk_bytes(openai_chunk)),
            };
            Some((Ok(response), (steps, index + 1, busy)))
        });
        Ok(pieces.boxed())
    }

    async fn complete(
        &self,
        worker: &HostName,
        request: CompleteRequest,
    ) -> Result<Pieces, Status> {
        lock(&self.changes).push(format!("continue with {} on {worker}", request.model));
        let CompleteRequest { model, openai_request, job_id, attempt, .. } = request;
        let asked =
            ChatCompleteRequest { model, openai_request, job_id, attempt, ..Default::default() };
        self.chat(worker, asked).await
    }

    async fn embed(
        &self,
        worker: &HostName,
        request: EmbedRequest,
    ) -> Result<EmbedResponse, Status> {
        lock(&self.changes).push(format!("embed with {} on {worker}", request.model));
        let usage = Some(Usage { prompt_tokens: Some(4), ..Default::default() });
        Ok(EmbedResponse { openai_response: request.openai_request, usage, ..Default::default() })
    }

    async fn rerank(
        &self,
        worker: &HostName,
        request: RerankRequest,
    ) -> Result<RerankResponse, Status> {
        lock(&self.changes).push(format!("rerank with {} on {worker}", request.model));
        Err(fail(Code::InvalidArgument, Reason::INVALID_REQUEST, "this model orders no texts"))
    }

    async fn load(&self, worker: &HostName, model: &ModelName) -> Result<(), Status> {
        lock(&self.changes).push(format!("load {model} on {worker}"));
        Ok(())
    }

    async fn unload(&self, worker: &HostName, model: &ModelName) -> Result<(), Status> {
        lock(&self.changes).push(format!("unload {model} on {worker}"));
        Ok(())
    }
}

const fn chunk_bytes(chunk: &'static str) -> &'static [u8] {
    chunk.as_bytes()
}

/// A queue to be tested.
pub(crate) struct Rig {
    pub(crate) jobs: Jobs,
    pub(crate) engines: Arc<Scripted>,
    pub(crate) clock: ManualClock,
    pub(crate) tasks: Tasks,
    pub(crate) store: Arc<dyn Store>,
    site: watch::Sender<Arc<Site>>,
    url: StoreUrl,
    folder: Arc<tempfile::TempDir>,
}

impl Rig {
    /// `cw-nas` is up with two slots for `small`; `x99` sleeps and once had one for `large`.
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let url = StoreUrl::Sqlite(folder.path().join("store.db"));
        Self::over(url, folder).await
    }

    /// The same over another store.
    pub(crate) async fn over(url: StoreUrl, folder: tempfile::TempDir) -> Self {
        let now = Timestamp::from_second(1_790_000_000).expect("a moment");
        Self::on(url, Arc::new(folder), ManualClock::new(now), crate::config::QUEUE).await
    }

    /// The same with other limits.
    pub(crate) async fn with_limits(limits: QueueLimits) -> Self {
        let Self { url, folder, clock, store, .. } = Self::new().await;
        store.close().await;
        Self::on(url, folder, clock, limits).await
    }

    /// The same store under a new controller, after the old one was killed.
    pub(crate) async fn restart(self) -> Self {
        self.tasks.stop_hard();
        self.store.close().await;
        let limits = self.jobs.parts().limits;
        Self::on(self.url.clone(), Arc::clone(&self.folder), self.clock.clone(), limits).await
    }

    async fn on(
        url: StoreUrl,
        folder: Arc<tempfile::TempDir>,
        clock: ManualClock,
        limits: QueueLimits,
    ) -> Self {
        let store = homelab_store::open(&url).await.expect("opens");
        let tasks = Tasks::default();
        let chance = Arc::new(SeededChance::new(7));
        let shared: Arc<dyn homelab_common::clock::Clock> = Arc::new(clock.clone());
        let file = SiteFile::parse("homelab.toml", SITE, Timestamp::UNIX_EPOCH).expect("is valid");
        let (site, watched) = watch::channel(file.site);
        let engines = Arc::new(Scripted {
            workers: Mutex::new([seen("cw-nas", Tier::Bronze, "small", 2), asleep()].into()),
            scripts: Mutex::default(),
            requests: Mutex::default(),
            busy: Arc::default(),
            gate: Arc::default(),
            changes: Mutex::default(),
        });
        let jobs = Jobs::new(Parts {
            store: Arc::clone(&store),
            clock: Arc::clone(&shared),
            chance: chance.clone(),
            tasks: tasks.clone(),
            driver: Driver::new(tasks.clone(), shared, chance),
            site: watched,
            engines: engines.clone(),
            events: Events::default(),
            limits,
        });
        let rig = Self { jobs, engines, clock, tasks, store, site, url, folder };
        // A first round, after which the queue knows that it is empty.
        rig.round().await;
        rig
    }

    /// The site file is another from now on.
    pub(crate) fn set_site(&self, change: impl FnOnce(&str) -> String) {
        let text = change(SITE);
        let file = SiteFile::parse("homelab.toml", &text, Timestamp::UNIX_EPOCH).expect("is valid");
        self.site.send_replace(file.site);
    }

    /// The time of day.
    pub(crate) fn clock_now(&self) -> Timestamp {
        use homelab_common::clock::Clock as _;
        self.clock.now()
    }

    /// One round of the dispatcher.
    pub(crate) async fn round(&self) {
        Dispatcher::new(self.jobs.clone()).activate().await.expect("a round");
    }

    /// Waits until a job is in a state.
    pub(crate) async fn until(&self, id: JobId, state: JobStateKind) -> Job {
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                let (job, _) = self.jobs.get(id).await.expect("readable").expect("is there");
                if job.state().kind() == state {
                    return job;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        match waited.await {
            Ok(job) => job,
            Err(_) => panic!("job {id} is never {state}: {:?}", self.jobs.get(id).await),
        }
    }

    /// Waits until something holds.
    pub(crate) async fn wait_for(&self, what: &str, holds: impl Fn() -> bool) {
        let waited = tokio::time::timeout(PATIENCE, async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        assert!(waited.await.is_ok(), "never: {what}");
    }
}

/// A job for `model` with a number for its id.
pub(crate) fn wish(number: u128, model: &str) -> Submission {
    Submission {
        id: Uuid::from_u128(number).into(),
        model: model.to_owned(),
        tier: None,
        tiers_allowed: vec![Tier::Bronze, Tier::Silver],
        request: JobRequest::new(RequestForm::OpenaiChat, b"{\"messages\":[{}]}".to_vec()),
        title: "a title".to_owned(),
        priority: None,
        deadline: None,
        tokens_max: None,
        record: Record::Full,
        terms: Terms::default(),
        submitted_by: "key/test".to_owned(),
    }
}

fn seen(host: &str, tier: Tier, model: &str, slots: u32) -> WorkerSeen {
    let worker = Worker {
        host: host.to_owned(),
        engines: vec![Engine {
            name: "engine".to_owned(),
            state: EngineState::Ready.into(),
            model: model.to_owned(),
            slots,
            ..Default::default()
        }],
        models: vec![Model {
            name: model.to_owned(),
            state: ModelState::Loaded.into(),
            slots: Some(slots),
            context_tokens: Some(2048),
            ..Default::default()
        }],
        ..Default::default()
    };
    WorkerSeen {
        host: HostName::try_new(host).expect("a name"),
        tier,
        contact: Contact::Connected,
        last_seen_at: None,
        worker: Some(Arc::new(worker)),
        drained: false,
        message: String::new(),
    }
}

fn asleep() -> WorkerSeen {
    WorkerSeen { contact: Contact::Asleep, ..seen("x99", Tier::Silver, "large", 1) }
}
