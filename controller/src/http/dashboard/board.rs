//! One rendering for all open pages.
//!
//! While at least one page is open, what the page is made from is read again after each nudge and
//! at the latest every few seconds; sections that changed are rendered once and sent to all. The
//! frames are counted, so that a page that missed one notices and fetches the whole again.

use std::{
    error::Error,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use homelab_common::{error_chain::Chain, lifecycle::Tasks};
use serde::Serialize;
use tokio::sync::{Notify, broadcast};
use tracing::warn;

use super::moment::Ages;
use crate::http::gateway::frame;

/// How long a change that nudged nobody may go unseen.
const PERIOD: Duration = Duration::from_secs(2);

/// Pause between two renderings: people do not read faster.
const PAUSE: Duration = Duration::from_millis(400);

/// Frames that a page may be behind before it has to fetch the whole again.
const FRAMES_MAX: usize = 32;

/// What a page is made from: sections that can be sent one by one.
pub trait Live: fmt::Debug + Send + Sync + 'static {
    /// The sections in order: name in the stream of events, and id in the page.
    const SECTIONS: &'static [&'static str];

    /// The sections as markup, in the order of [`Live::SECTIONS`].
    ///
    /// # Errors
    /// When a template cannot be filled, which is a bug.
    fn sections(&self, ages: Ages) -> askama::Result<Vec<String>>;
}

/// Where a board gets what it shows.
#[async_trait]
pub trait Source<P>: fmt::Debug + Send + Sync {
    /// Reads everything that the page is made from.
    ///
    /// # Errors
    /// When the store cannot be read; the page then keeps what it has, with its age.
    async fn observe(&self) -> Result<P, Box<dyn Error + Send + Sync>>;
}

/// The rendered sections of one page and those who watch them.
#[derive(Debug)]
pub struct Board<P> {
    source: Arc<dyn Source<P>>,
    nudge: Notify,
    shown: Mutex<Shown>,
    frames: broadcast::Sender<Bytes>,
}

#[derive(Debug, Default)]
struct Shown {
    seq: u64,
    sections: Vec<String>,
}

/// The frames from a moment on.
#[derive(Debug)]
pub struct Tab<P> {
    board: Arc<Board<P>>,
    frames: broadcast::Receiver<Bytes>,
    hello: Option<Bytes>,
}

impl<P: Live> Board<P> {
    /// A board that nobody watches yet.
    #[must_use]
    pub fn new(source: Arc<dyn Source<P>>) -> Arc<Self> {
        let (frames, _) = broadcast::channel(FRAMES_MAX);
        Arc::new(Self { source, nudge: Notify::new(), shown: Mutex::default(), frames })
    }

    /// Renders whenever something may have changed, until the daemon stops.
    pub fn start(self: &Arc<Self>, tasks: &Tasks) {
        let (board, stopping) = (Arc::clone(self), tasks.stopping());
        tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = board.nudge.notified() => {}
                    () = tokio::time::sleep(PERIOD) => {}
                    () = stopping.cancelled() => return,
                }
                if board.frames.receiver_count() > 0 {
                    board.refresh().await;
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
    }

    /// Something has changed.
    pub fn nudge(&self) {
        self.nudge.notify_one();
    }

    /// What the page is made from, fresh, and the number of the last frame that it includes.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn snapshot(&self) -> Result<(u64, P), Box<dyn Error + Send + Sync>> {
        // The number first: a frame sent in between is then applied twice, never missed.
        let seq = self.lock().seq;
        Ok((seq, self.source.observe().await?))
    }

    /// Follows the board; the first frame says where it stands.
    #[must_use]
    pub fn watch(self: &Arc<Self>) -> Tab<P> {
        let shown = self.lock();
        // Under the lock: every frame after this number comes through the channel.
        let tab = Tab {
            board: Arc::clone(self),
            frames: self.frames.subscribe(),
            hello: Some(hello(shown.seq)),
        };
        drop(shown);
        self.nudge();
        tab
    }

    /// How many pages are open.
    #[must_use]
    pub fn watchers(&self) -> usize {
        self.frames.receiver_count()
    }

    async fn refresh(&self) {
        let observed = match self.source.observe().await {
            Ok(observed) => observed,
            Err(error) => {
                warn!(error = %Chain(error.as_ref()), "could not read what the dashboard shows");
                return;
            }
        };
        match observed.sections(Ages::Counted) {
            Ok(sections) => self.publish(sections),
            Err(error) => warn!(error = %Chain(&error), "could not render the dashboard"),
        }
    }

    fn publish(&self, sections: Vec<String>) {
        let mut shown = self.lock();
        for (index, (kind, html)) in P::SECTIONS.iter().zip(&sections).enumerate() {
            if shown.sections.get(index) == Some(html) {
                continue;
            }
            shown.seq += 1;
            // Nobody listening is not an error: the last page was just closed.
            let _listeners = self.frames.send(event(&Event { seq: shown.seq, kind, html }));
        }
        shown.sections = sections;
    }

    fn lock(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P: Live> Tab<P> {
    /// The next frame. A page that was too slow gets another `hello`, whose number tells it that it
    /// has missed something. `None` once the board is gone.
    ///
    /// Cancel safety: safe; no frame is lost.
    pub async fn next(&mut self) -> Option<Bytes> {
        if let Some(hello) = self.hello.take() {
            return Some(hello);
        }
        match self.frames.recv().await {
            Ok(frame) => Some(frame),
            Err(broadcast::error::RecvError::Lagged(_)) => {
                let shown = self.board.lock();
                self.frames = self.frames.resubscribe();
                Some(hello(shown.seq))
            }
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

fn hello(seq: u64) -> Bytes {
    event(&Event { seq, kind: "hello", html: "" })
}

#[derive(Serialize)]
struct Event<'a> {
    seq: u64,
    kind: &'a str,
    html: &'a str,
}

fn event(event: &Event<'_>) -> Bytes {
    serde_json::to_vec(event).map_or_else(|_| frame::comment("lost"), |json| frame::data(&json))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::http::dashboard::view::Observed;

    #[derive(Debug, Default)]
    struct Counting {
        reads: AtomicU32,
        pending: AtomicU32,
    }

    #[async_trait]
    impl Source<Observed> for Counting {
        async fn observe(&self) -> Result<Observed, Box<dyn Error + Send + Sync>> {
            self.reads.fetch_add(1, Ordering::SeqCst);
            let mut observed = Observed::default();
            observed.status.jobs = Some(homelab_proto::controller::v1::JobCounts {
                pending: self.pending.load(Ordering::SeqCst),
                ..Default::default()
            });
            observed.pending.push(Default::default());
            Ok(observed)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_pages_get_one_rendering_and_only_what_changed() {
        let source = Arc::new(Counting::default());
        let board = Board::new(Arc::<Counting>::clone(&source));
        let tasks = Tasks::default();
        board.start(&tasks);
        let mut tabs = [board.watch(), board.watch(), board.watch()];
        for tab in &mut tabs {
            for seq in 0..=4 {
                let frame = tab.next().await.expect("a frame");
                assert!(
                    frame.starts_with(format!("data: {{\"seq\":{seq},").as_bytes()),
                    "{frame:?}"
                );
            }
        }
        assert_eq!(source.reads.load(Ordering::SeqCst), 1);
        source.pending.store(3, Ordering::SeqCst);
        board.nudge();
        let frame = tabs[0].next().await.expect("a frame");
        assert!(frame.starts_with(b"data: {\"seq\":5,\"kind\":\"jobs\""), "{frame:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_read_while_no_page_is_open() {
        let source = Arc::new(Counting::default());
        let board = Board::new(Arc::<Counting>::clone(&source));
        board.start(&Tasks::default());
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(source.reads.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn a_page_that_is_too_slow_is_told_to_fetch_the_whole() {
        let board = Board::new(Arc::new(Counting::default()));
        let mut tab = board.watch();
        assert!(tab.next().await.expect("a hello").starts_with(b"data: {\"seq\":0,"));
        for round in 0..=FRAMES_MAX {
            board.publish(vec![round.to_string(); 4]);
        }
        let frame = tab.next().await.expect("a frame");
        assert!(frame.starts_with(b"data: {\"seq\":132,\"kind\":\"hello\""), "{frame:?}");
    }
}
