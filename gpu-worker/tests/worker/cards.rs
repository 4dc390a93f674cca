//! Two cards, one engine on each and one over both.

use std::{fs, path::Path, sync::Arc, time::Duration};

use homelab_common::{clock::SystemClock, exec::Ended, lifecycle::Tasks};
use homelab_gpu_worker::{
    device::Roots,
    engine::{
        Engine, EngineConfig, MemoryCheck, State,
        backend::Backend,
        command::Template,
        session::{Chat, Session},
    },
    fake_engine::{FakeEngine, PROGRAM, Start, Step},
    model::{Hashes, Model, Options},
    worker::{
        Admission, LoadEvent, LoadFailure, ModelState, NotWoken, Parts, Reach, Refusal, Seat,
        Worker,
    },
};
use tokio::{sync::watch, time};

use crate::bench::{CEILING, ask, build, config, until, world};

const LEFT: &str = "0000:03:00.0";
const RIGHT: &str = "0000:83:00.0";

const ONE: &str = "Available devices:\n  Vulkan0: Intel(R) Arc(tm) A770 Graphics (DG2) (16288 MiB, \
    14655 MiB free)\n";
const TWO: &str = "Available devices:\n  Vulkan0: Intel(R) Arc(tm) A770 Graphics (DG2) (16288 MiB, \
    14655 MiB free)\n  Vulkan1: Intel(R) Arc(tm) A770 Graphics (DG2) (16288 MiB, 14655 MiB free)\n";

/// A host with engines `left`, `right` and `both`.
struct Host {
    worker: Worker,
    left: FakeEngine,
    both: FakeEngine,
    right: FakeEngine,
    folder: tempfile::TempDir,
}

impl Host {
    fn new(change: impl Fn(&mut EngineConfig)) -> Self {
        Self::with_context(change, |_| 4096)
    }

    fn with_context(change: impl Fn(&mut EngineConfig), context: impl Fn(&str) -> u32) -> Self {
        let tasks = Tasks::default();
        let folder = tempfile::tempdir().unwrap();
        for (number, slot) in [LEFT, RIGHT].into_iter().enumerate() {
            card(folder.path(), number, slot);
        }
        let roots = Roots { sys: folder.path().join("sys"), proc: folder.path().join("proc") };
        let changed = watch::channel(()).0;
        let fake = |listing| FakeEngine::new(tasks.clone()).listing(listing);
        let (left, right, both) = (fake(ONE), fake(ONE), fake(TWO));
        let seat = |name: &str, slots: &[&str], fake: &FakeEngine| {
            let mut world = world(fake, &tasks, folder.path().into());
            world.roots = roots.clone();
            world.changed = changed.clone();
            let mut config = config();
            config.name = name.to_owned();
            config.devices = slots.iter().map(|slot| slot.parse().unwrap()).collect();
            config.builds = vec![build(Some(Backend::Vulkan), PROGRAM)];
            change(&mut config);
            Seat { engine: Engine::start(config, world), models: Vec::new(), load: None }
        };
        let mut large = seat("both", &[LEFT, RIGHT], &both);
        large.models = vec!["large".parse().unwrap()];
        let small = |mut seat: Seat| {
            seat.models = vec!["small".parse().unwrap(), "other".parse().unwrap()];
            seat
        };
        let seats = vec![
            small(seat("left", &[LEFT], &left)),
            small(seat("right", &[RIGHT], &right)),
            large,
        ];
        let weights = folder.path().join("large.gguf");
        fs::write(&weights, gguf()).unwrap();
        let model = |name: &str| {
            let path = (name == "large").then(|| weights.clone());
            let options = Options { context_tokens: context(name), ..Options::default() };
            Arc::new(Model::new(name.parse().unwrap(), path, options))
        };
        let worker = Worker::new(Parts {
            host: "x99".to_owned(),
            seats,
            models: ["small", "other", "large"].map(model).into(),
            hashes: Hashes::load(&folder.path().join("hashes.json")).unwrap(),
            roots,
            tasks,
            clock: Arc::new(SystemClock),
            changed,
        });
        Self { worker, left, right, both, folder }
    }

    async fn load(&self, model: &str, busy_wait: Option<Duration>) -> Result<String, LoadFailure> {
        let mut loading = self.worker.load(model, busy_wait).unwrap();
        let ending = async {
            loop {
                match loading.next().await.expect("an end") {
                    LoadEvent::Step(_) => {}
                    LoadEvent::Loaded(view) => return Ok(view.engine.unwrap()),
                    LoadEvent::Failed(failure) => return Err(failure),
                }
            }
        };
        time::timeout(CEILING, ending).await.expect("loading ends")
    }

    /// The names of the engines that answer.
    fn up(&self) -> Vec<String> {
        let engines = self.worker.engines().into_iter();
        let ready = engines.filter(|engine| matches!(engine.status.state, State::Ready(_)));
        ready.map(|engine| engine.name).collect()
    }

    /// A running answer at the engine that has `model`.
    async fn running(&self, model: &str) -> (Arc<Session>, Chat) {
        let Ok(Admission::Ready(session, permit)) = self.worker.admit(model, "", 0, Reach::Free)
        else {
            panic!("{model} is ready");
        };
        let mut chat = session.stream(permit, ask("job-7")).await.unwrap();
        chat.next().await.unwrap();
        (session, chat)
    }
}

/// An A770 under i915 as sysfs shows it.
fn card(root: &Path, number: usize, slot: &str) {
    let device = root.join("sys/devices").join(slot);
    fs::create_dir_all(&device).unwrap();
    let node = root.join(format!("sys/class/drm/card{number}"));
    fs::create_dir_all(&node).unwrap();
    std::os::unix::fs::symlink(&device, node.join("device")).unwrap();
    let uevent = format!("DRIVER=i915\nPCI_SLOT_NAME={slot}\n");
    for (file, text) in [
        ("uevent", uevent.as_str()),
        ("vendor", "0x8086\n"),
        ("device", "0x56a0\n"),
        ("lmem_total_bytes", "17095983104\n"),
    ] {
        fs::write(device.join(file), text).unwrap();
    }
}

/// The head of a model that keeps 36 x 8 heads of 128 numbers, and no weights.
fn gguf() -> Vec<u8> {
    let numbers = [
        ("x.block_count", 36_u32),
        ("x.embedding_length", 4096),
        ("x.attention.head_count", 32),
        ("x.attention.head_count_kv", 8),
        ("general.file_type", 15),
    ];
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let mut file = [&b"GGUF"[..], &3_u32.to_le_bytes(), &0_u64.to_le_bytes()].concat();
    file.extend((numbers.len() as u64 + 1).to_le_bytes());
    file.extend([text("general.architecture"), 8_u32.to_le_bytes().into(), text("x")].concat());
    for (key, number) in numbers {
        file.extend([&text(key)[..], &4_u32.to_le_bytes(), &number.to_le_bytes()].concat());
    }
    file
}

fn started(fake: &FakeEngine) -> Vec<String> {
    let lines = fake.command_lines().into_iter();
    lines.filter(|line| !line.ends_with("--list-devices")).collect()
}

#[tokio::test]
async fn each_engine_is_told_the_builds_own_name_of_its_card() {
    let host = Host::new(|_| {});
    assert_eq!(host.load("small", None).await.unwrap(), "left");
    assert_eq!(host.left.command_lines()[0], format!("{PROGRAM} --list-devices"));
    let line = &started(&host.left)[0];
    assert!(line.ends_with("-ngl 999 -dev Vulkan0"), "{line}");
    assert_eq!(host.load("large", None).await.unwrap(), "both");
    let line = &started(&host.both)[0];
    assert!(line.ends_with("-dev Vulkan0,Vulkan1 -sm layer -ts 1,1"), "{line}");
}

#[tokio::test]
async fn what_a_person_has_set_is_not_asked_for() {
    let host = Host::new(|config| {
        let by_hand = ("GGML_VK_VISIBLE_DEVICES".to_owned(), "1".to_owned());
        config.builds[0].environment = vec![by_hand];
    });
    host.load("small", None).await.unwrap();
    assert_eq!(host.left.command_lines().len(), 1, "nobody asked for the devices");
    assert!(!host.left.command_lines()[0].contains("-dev"));
}

#[tokio::test]
async fn an_engine_that_names_another_card_in_its_log_is_not_used() {
    let host = Host::new(|_| {});
    let log =
        format!("llama: using device Vulkan0 (Intel(R) Arc(tm) A770) ({RIGHT}) - 9 MiB free\n");
    let _left = host.left.clone().saying(&log).listing(ONE);
    let failure = host.load("small", None).await.unwrap_err();
    assert!(
        failure.because.starts_with(
            "it uses the card in 0000:83:00.0 and not that in 0000:03:00.0; correct `device`"
        ),
        "{}",
        failure.because
    );
    assert_eq!(started(&host.left).len(), 1, "trying again would not help");
}

#[tokio::test]
async fn a_card_that_cannot_be_told_from_another_is_not_guessed() {
    let host = Host::new(|_| {});
    let _left = host.left.clone().listing(TWO);
    let failure = host.load("small", None).await.unwrap_err();
    assert!(failure.because.contains("which of Vulkan0, Vulkan1 is in slot"), "{failure:?}");
    assert_eq!(started(&host.left), [] as [&str; 0]);
}

#[tokio::test]
async fn a_spanning_engine_and_those_of_its_cards_exclude_each_other() {
    let host = Host::new(|_| {});
    host.load("small", None).await.unwrap();
    host.load("other", None).await.unwrap();
    assert_eq!(host.up(), ["left", "right"]);
    host.load("large", None).await.unwrap();
    assert_eq!(host.up(), ["both"]);
    host.load("other", None).await.unwrap();
    assert_eq!(host.up(), ["left"]);
    assert_eq!((started(&host.both).len(), started(&host.right).len()), (1, 1));
}

#[tokio::test]
async fn nobodys_answer_is_broken_off_to_make_room() {
    let host = Host::new(|_| {});
    let steps = [Step::Text("a"), Step::Wait(Duration::from_millis(300)), Step::Text("b")];
    let _left = host.left.clone().answering(steps.into_iter().chain([Step::Finish]));
    host.load("small", None).await.unwrap();
    let (session, mut chat) = host.running("small").await;
    let reading = async {
        assert_eq!(chat.next().await.unwrap().unwrap().content, "b");
        while chat.next().await.unwrap().is_some() {}
        drop(chat);
    };
    let (loaded, ()) = tokio::join!(host.load("large", None), reading);
    assert_eq!(loaded.unwrap(), "both");
    assert_eq!((host.up(), session.slots().busy()), (vec!["both".to_owned()], 0));
}

#[tokio::test]
async fn who_is_busy_is_said_when_the_wait_is_over_and_requests_are_taken_again() {
    let host = Host::new(|config| config.timing.stall = CEILING);
    let _left = host.left.clone().answering([Step::Text("a"), Step::Hang]);
    host.load("small", None).await.unwrap();
    let (_session, chat) = host.running("small").await;
    let failure = host.load("large", Some(Duration::from_millis(50))).await.unwrap_err();
    assert!(failure.is_busy && failure.is_retryable);
    assert!(
        failure.because.starts_with("engine `left` has 1 running requests of `small` (jobs job-7)"),
        "{}",
        failure.because
    );
    drop(chat);
    until("a request is taken again", || host.worker.admit("small", "", 0, Reach::Free).is_ok())
        .await;
    assert_eq!(host.up(), ["left"]);
}

#[tokio::test]
async fn a_request_loads_nothing_where_others_would_have_to_go() {
    let host = Host::new(|_| {});
    host.load("small", None).await.unwrap();
    let refusal = host.worker.admit("large", "", 0, Reach::Free).unwrap_err();
    assert!(matches!(refusal, Refusal::NotReady { .. }), "{refusal}");
    let Ok(Admission::AfterLoad(waiting)) = host.worker.admit("other", "", 0, Reach::Free) else {
        panic!("the right card is free");
    };
    waiting.admitted().await.unwrap();
    assert_eq!(host.up(), ["left", "right"]);
}

#[tokio::test]
async fn a_request_that_waits_for_a_load_counts_as_running_while_its_worker_is_drained() {
    let host = Host::new(|_| {});
    let Ok(Admission::AfterLoad(waiting)) = host.worker.admit("small", "", 0, Reach::Free) else {
        panic!("both cards are free");
    };
    assert_eq!(host.worker.drain(true, Duration::ZERO).await, 1);
    // It is told at once, instead of getting a slot of a worker that takes no work.
    let refused = waiting.admitted().await.unwrap_err();
    assert_eq!(refused, NotWoken::Refused(Refusal::Draining));
    assert_eq!(host.worker.drain(true, Duration::ZERO).await, 0);
    assert!(host.up().is_empty(), "nothing was loaded for it");
}

#[tokio::test]
async fn a_request_that_may_make_room_takes_the_place_of_what_has_nothing_to_do() {
    let host = Host::new(|_| {});
    host.load("small", None).await.unwrap();
    let Ok(Admission::AfterLoad(waiting)) = host.worker.admit("large", "", 0, Reach::Any) else {
        panic!("others may have to go for it");
    };
    waiting.admitted().await.unwrap();
    assert_eq!(host.up(), ["both"]);
}

#[tokio::test]
async fn a_worker_says_on_which_engines_each_model_fits() {
    let places = async |host: &Host, name: &str| {
        let models = host.worker.snapshot().await.models;
        let model = models.into_iter().find(|model| model.name.as_str() == name).unwrap();
        (model.state, model.engines)
    };
    let host = Host::new(|_| {});
    let either = ["left", "right"].map(str::to_owned).to_vec();
    assert_eq!(places(&host, "small").await, (ModelState::Unloaded, either));
    assert_eq!(places(&host, "large").await.1, ["both"]);
    let host = Host::with_context(|_| {}, |_| 262_144);
    // What it needs is known once its file was looked at.
    host.load("large", None).await.unwrap_err();
    assert_eq!(places(&host, "large").await, (ModelState::Failed, vec![]));
}

#[tokio::test]
async fn an_engine_that_nobody_uses_ends_and_the_next_request_starts_it_again() {
    let host = Host::new(|config| config.timing.idle_end = Some(Duration::from_millis(100)));
    host.load("small", None).await.unwrap();
    until("the engine ends", || host.up().is_empty()).await;
    until("the model is unloaded", || {
        let models = host.worker.models(&[]);
        let small = models.iter().find(|model| model.name.as_str() == "small").unwrap();
        small.engine.is_none() && small.message.contains("the next request starts it again")
    })
    .await;
    let Ok(Admission::AfterLoad(waiting)) = host.worker.admit("small", "", 0, Reach::Free) else {
        panic!("it is loaded on request");
    };
    let (_session, permit) = waiting.admitted().await.unwrap();
    // Waiting is the very thing that is tried: a request keeps its engine.
    time::sleep(Duration::from_millis(300)).await;
    assert_eq!(host.up(), ["left"]);
    drop(permit);
    until("the engine ends again", || host.up().is_empty()).await;
}

#[tokio::test]
async fn a_build_that_keeps_ending_is_followed_by_its_previous_one_and_then_by_another_backend() {
    let host = Host::new(|config| {
        config.builds[0].previous = build(None, "/opt/previous/fake-engine").command.into();
        config.builds.push(build(Some(Backend::Cpu), "/opt/cpu/fake-engine"));
    });
    let ends = Start::Ends(Ended { code: Some(1), signal: None });
    let _left = host.left.clone().starting([ends; 4]);
    host.load("small", None).await.unwrap();
    let programs: Vec<String> =
        started(&host.left).iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    let (first, previous) = (PROGRAM, "/opt/previous/fake-engine");
    assert_eq!(programs, [first, first, previous, previous, "/opt/cpu/fake-engine"]);
    let engine = host.worker.engines().remove(0);
    assert_eq!(engine.status.variant.unwrap().backend, Some(Backend::Cpu));
    assert!(host.folder.path().exists());
}

#[tokio::test]
async fn a_model_that_does_not_fit_is_refused_with_its_numbers_before_anything_is_started() {
    let host = Host::with_context(|_| {}, |_| 262_144);
    let failure = host.load("large", None).await.unwrap_err();
    assert_eq!(
        failure.because,
        "`large` needs 37313 MiB (weights 1 MiB, 1 x 262144 tokens of context 36 GiB, to compute \
         448 MiB); engine `both` has 30978 MiB; lower its `context` or `slots`, take a smaller \
         quantisation, or let an engine span more cards (`devices`)"
    );
    assert_eq!(started(&host.both), [] as [&str; 0]);
    let large = host.worker.models(&[]).into_iter().find(|model| model.name.as_str() == "large");
    let large = large.unwrap();
    assert_eq!(large.quantization.as_deref(), Some("Q4_K_M"));
    assert!(large.memory_bytes > Some(36 << 30), "{large:?}");
}

#[tokio::test]
async fn what_is_told_of_a_cache_counts_and_a_person_may_know_better() {
    let smaller = Host::with_context(
        |config| {
            let words =
                [PROGRAM, "--port", "{port}", "-np", "{slots}", "--api-key-file", "{key_file}"];
            let cache = ["-dev", "{device}", "-ctk", "q8_0", "-ctv", "q8_0"];
            let words: Vec<String> = words.into_iter().chain(cache).map(str::to_owned).collect();
            config.builds[0].command = Template::try_new(&words).unwrap();
        },
        |_| 262_144,
    );
    assert_eq!(smaller.load("large", None).await.unwrap(), "both");
    let ignored =
        Host::with_context(|config| config.memory_check = MemoryCheck::Ignore, |_| 262_144);
    assert_eq!(ignored.load("large", None).await.unwrap(), "both");
}
