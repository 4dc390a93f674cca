//! What the service manager is told (sd_notify(3)).

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::warn;

use crate::error_chain::Chain;

/// A message to the service manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Ready,
    Reloading,
    Stopping,
    Watchdog,
}

/// Where the messages go.
pub(super) trait Notifier: Send + Sync {
    fn tell(&self, message: Message);

    /// How often the service manager wants to hear `Watchdog`.
    fn watchdog_period(&self) -> Option<Duration>;
}

/// systemd, or nobody when it did not start this process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Systemd;

impl Notifier for Systemd {
    fn tell(&self, message: Message) {
        let sent = match message {
            Message::Ready => sd_notify::notify(&[NotifyState::Ready]),
            // Type=notify-reload wants to know when the reload began.
            Message::Reloading => NotifyState::monotonic_usec_now()
                .and_then(|now| sd_notify::notify(&[NotifyState::Reloading, now])),
            Message::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
            Message::Watchdog => sd_notify::notify(&[NotifyState::Watchdog]),
        };
        if let Err(error) = sent {
            warn!(?message, error = %Chain(&error), "could not tell the service manager");
        }
    }

    fn watchdog_period(&self) -> Option<Duration> {
        sd_notify::watchdog_enabled().filter(|period| !period.is_zero())
    }
}
