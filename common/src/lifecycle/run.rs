//! From "everything is up" to the exit code.

use std::{fmt, future::Future, io, pin::Pin, process::ExitCode, sync::Arc, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use tracing::{error, info, warn};

use super::{
    Tasks,
    notify::{Message, Notifier, Systemd},
};
use crate::{error_chain::Chain, exit::Exit};

/// How long a reload may take before it is given up.
const RELOAD_MAX: Duration = Duration::from_secs(60);

/// How long the runtime waits for its threads at the very end.
const RUNTIME_WAIT: Duration = Duration::from_secs(2);

/// Threads for blocking work where one thread does the rest; more work waits. Less than the
/// `TasksMax=` of the units.
const BLOCKING_THREADS_FEW: usize = 32;

/// How long such a thread waits for more work before it ends. Making one costs more than most of
/// what it is for, so that it outlasts the pause between two rounds of regular work.
const BLOCKING_THREAD_KEPT: Duration = Duration::from_secs(40);

/// Signals that wait to be handled; more are dropped, as the kernel would.
const SIGNALS_MAX: usize = 8;

type Reload = Box<dyn FnMut() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// How a daemon stops and reloads.
pub struct Lifecycle {
    grace: Duration,
    on_reload: Option<Reload>,
}

impl Lifecycle {
    /// Tasks get `grace` to finish. Keep it below the unit's `TimeoutStopSec=`.
    #[must_use]
    pub const fn new(grace: Duration) -> Self {
        Self { grace, on_reload: None }
    }

    /// What SIGHUP does. Without it, SIGHUP is ignored.
    #[must_use]
    pub fn on_reload<F>(mut self, mut reload: impl FnMut() -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.on_reload = Some(Box::new(move || Box::pin(reload())));
        self
    }
}

impl fmt::Debug for Lifecycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lifecycle")
            .field("grace", &self.grace)
            .field("reloads", &self.on_reload.is_some())
            .finish()
    }
}

/// Tells the service manager that the daemon is ready, then waits for its end:
/// SIGTERM, SIGINT, [`Tasks::stop`] or a panicked task. A second signal stops
/// hard. The code is 0 after a graceful end, 1 after a forced one or a panic.
pub async fn run(tasks: Tasks, lifecycle: Lifecycle) -> ExitCode {
    match signals(&tasks) {
        Ok(signals) => drive(tasks, lifecycle, signals, Arc::new(Systemd)).await.into(),
        Err(error) => {
            error!(error = %Chain(&error), "could not listen for signals");
            Exit::Failed.into()
        }
    }
}

/// Runs the whole program on a runtime of its own, and does not wait for
/// threads that will not end: the last thing that a daemon's `main` calls.
pub fn block_on(program: impl Future<Output = ExitCode>) -> ExitCode {
    run_to_end(tokio::runtime::Builder::new_multi_thread().enable_all().build(), program)
}

/// The same on the calling thread alone, beside which only blocking work has threads, few of
/// them: for a daemon that has little to do on a host that may have a hundred processors.
pub fn block_on_one_thread(program: impl Future<Output = ExitCode>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_FEW)
        .thread_keep_alive(BLOCKING_THREAD_KEPT)
        .build();
    run_to_end(runtime, program)
}

fn run_to_end(
    runtime: io::Result<tokio::runtime::Runtime>,
    program: impl Future<Output = ExitCode>,
) -> ExitCode {
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(program);
            runtime.shutdown_timeout(RUNTIME_WAIT);
            code
        }
        Err(error) => {
            error!(error = %Chain(&error), "could not start the runtime");
            Exit::Failed.into()
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    Stop,
    Reload,
}

/// Listens until the hard stop.
fn signals(tasks: &Tasks) -> io::Result<mpsc::Receiver<Signal>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (sender, receiver) = mpsc::channel(SIGNALS_MAX);
    // Not through `Tasks`: it must still listen while the tasks are stopping.
    let hard = tasks.stopped();
    let listener = async move {
        loop {
            let signal = tokio::select! {
                _ = terminate.recv() => Signal::Stop,
                _ = interrupt.recv() => Signal::Stop,
                _ = hangup.recv() => Signal::Reload,
                () = hard.cancelled() => break,
            };
            if let Err(mpsc::error::TrySendError::Closed(_)) = sender.try_send(signal) {
                break;
            }
        }
    };
    #[expect(clippy::disallowed_methods, reason = "outlives the soft stop by design")]
    let _detached = tokio::spawn(listener);
    Ok(receiver)
}

async fn drive(
    tasks: Tasks,
    mut lifecycle: Lifecycle,
    mut signals: mpsc::Receiver<Signal>,
    notifier: Arc<dyn Notifier>,
) -> Exit {
    let _watchdog = Watchdog::start(Arc::clone(&notifier));
    notifier.tell(Message::Ready);
    let stopping = tasks.stopping();
    loop {
        let signal = tokio::select! {
            signal = signals.recv() => signal.unwrap_or(Signal::Stop),
            () = stopping.cancelled() => Signal::Stop,
        };
        match signal {
            Signal::Stop => break,
            Signal::Reload => reload(&mut lifecycle, notifier.as_ref()).await,
        }
    }
    notifier.tell(Message::Stopping);
    info!(grace_secs = lifecycle.grace.as_secs(), "stopping");
    let graceful = {
        let mut shutdown = std::pin::pin!(tasks.shutdown(lifecycle.grace));
        loop {
            tokio::select! {
                graceful = &mut shutdown => break graceful,
                Some(signal) = signals.recv() => if signal == Signal::Stop {
                    warn!("asked again: stopping at once");
                    tasks.stop_hard();
                },
            }
        }
    };
    verdict(&tasks, graceful)
}

fn verdict(tasks: &Tasks, graceful: bool) -> Exit {
    if let Some(failure) = tasks.failure() {
        error!(%failure, "stopped because of a failure");
        return Exit::Failed;
    }
    if graceful {
        info!("stopped");
        Exit::Ok
    } else {
        warn!("stopped by force: some tasks did not finish in time");
        Exit::Failed
    }
}

async fn reload(lifecycle: &mut Lifecycle, notifier: &dyn Notifier) {
    let Some(on_reload) = &mut lifecycle.on_reload else {
        info!("asked to reload: there is nothing to reload");
        return;
    };
    notifier.tell(Message::Reloading);
    info!("reloading");
    if tokio::time::timeout(RELOAD_MAX, on_reload()).await.is_err() {
        warn!(after_secs = RELOAD_MAX.as_secs(), "the reload took too long and was given up");
    }
    notifier.tell(Message::Ready);
}

/// Tells the service manager that the runtime still runs tasks; ends when dropped.
struct Watchdog(Option<tokio::task::AbortHandle>);

impl Watchdog {
    fn start(notifier: Arc<dyn Notifier>) -> Self {
        let Some(period) = notifier.watchdog_period() else { return Self(None) };
        let ping = async move {
            // sd_watchdog_enabled(3) advises half of the period.
            let mut ticks = tokio::time::interval(period / 2);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                notifier.tell(Message::Watchdog);
            }
        };
        #[expect(clippy::disallowed_methods, reason = "must go on while the tasks are stopping")]
        let task = tokio::spawn(ping);
        Self(Some(task.abort_handle()))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::time::Instant;

    use super::*;
    use crate::lock;

    const GRACE: Duration = Duration::from_secs(30);

    #[derive(Default)]
    struct Recorder {
        told: Mutex<Vec<Message>>,
        watchdog: Option<Duration>,
    }

    impl Recorder {
        fn told(&self) -> Vec<Message> {
            lock(&self.told).clone()
        }
    }

    impl Notifier for Recorder {
        fn tell(&self, message: Message) {
            lock(&self.told).push(message);
        }

        fn watchdog_period(&self) -> Option<Duration> {
            self.watchdog
        }
    }

    async fn drive_with(
        signals: &[Signal],
        tasks: Tasks,
        lifecycle: Lifecycle,
    ) -> (Exit, Vec<Message>) {
        let (sender, receiver) = mpsc::channel(SIGNALS_MAX);
        for signal in signals {
            sender.send(*signal).await.expect("room for the signal");
        }
        let recorder = Arc::new(Recorder::default());
        let exit = drive(tasks, lifecycle, receiver, Arc::clone(&recorder) as _).await;
        drop(sender);
        (exit, recorder.told())
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_signal_ends_gracefully() {
        let tasks = Tasks::default();
        let stop = tasks.stopping();
        tasks.spawn(async move { stop.cancelled().await });
        let (exit, told) = drive_with(&[Signal::Stop], tasks, Lifecycle::new(GRACE)).await;
        assert_eq!((exit, told), (Exit::Ok, vec![Message::Ready, Message::Stopping]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_forced_end_fails() {
        let tasks = Tasks::default();
        tasks.spawn(std::future::pending());
        let (exit, _) = drive_with(&[Signal::Stop], tasks, Lifecycle::new(GRACE)).await;
        assert_eq!(exit, Exit::Failed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_signal_does_not_wait_for_the_grace() {
        let tasks = Tasks::default();
        tasks.spawn(std::future::pending());
        let began = Instant::now();
        let signals = [Signal::Stop, Signal::Stop];
        let (exit, _) = drive_with(&signals, tasks, Lifecycle::new(GRACE)).await;
        assert_eq!(exit, Exit::Failed);
        assert!(began.elapsed() < GRACE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panicked_task_fails_the_daemon() {
        let tasks = Tasks::default();
        tasks.spawn(async { panic!("bug") });
        let (_sender, receiver) = mpsc::channel(1);
        let recorder = Arc::new(Recorder::default());
        let exit = drive(tasks, Lifecycle::new(GRACE), receiver, recorder).await;
        assert_eq!(exit, Exit::Failed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reload_is_announced_and_done() {
        let count = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&count);
        let lifecycle = Lifecycle::new(GRACE).on_reload(move || {
            *lock(&counted) += 1;
            async {}
        });
        let signals = [Signal::Reload, Signal::Stop];
        let (exit, told) = drive_with(&signals, Tasks::default(), lifecycle).await;
        assert_eq!((exit, *lock(&count)), (Exit::Ok, 1));
        let expected = [Message::Ready, Message::Reloading, Message::Ready, Message::Stopping];
        assert_eq!(told, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_reload_is_given_up() {
        let lifecycle = Lifecycle::new(GRACE).on_reload(std::future::pending);
        let signals = [Signal::Reload, Signal::Stop];
        let (exit, _) = drive_with(&signals, Tasks::default(), lifecycle).await;
        assert_eq!(exit, Exit::Ok);
    }

    #[tokio::test(start_paused = true)]
    async fn the_watchdog_hears_from_us_twice_per_period_even_while_stopping() {
        let tasks = Tasks::default();
        tasks.spawn(std::future::pending());
        let (sender, receiver) = mpsc::channel(1);
        sender.send(Signal::Stop).await.expect("room for the signal");
        let watchdog = Some(Duration::from_secs(10));
        let recorder = Arc::new(Recorder { watchdog, ..Recorder::default() });
        let exit = drive(tasks, Lifecycle::new(GRACE), receiver, Arc::clone(&recorder) as _).await;
        assert_eq!(exit, Exit::Failed);
        let pings = recorder.told().iter().filter(|m| **m == Message::Watchdog).count();
        assert!((6..=7).contains(&pings), "{pings} pings in 30 s");
    }
}
