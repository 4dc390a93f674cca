//! Shows one caller how the worker stands, again and again.

use std::time::Duration;

use homelab_proto::inference::v1::WatchWorkerResponse;
use tokio::time;
use tokio_util::sync::CancellationToken;

use super::Sender;
use crate::worker::Worker;

/// The latest that a message follows another: also the sign of life.
const PERIOD: Duration = Duration::from_secs(10);

/// The soonest. A slot changes hands with every request, which nobody needs to see
/// one by one.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn run(
    worker: Worker,
    stopping: CancellationToken,
    sender: Sender<WatchWorkerResponse>,
) {
    let mut changes = worker.changes();
    let mut sequence = 0;
    loop {
        // What changes from here on is in the next message.
        changes.mark_unchanged();
        sequence += 1;
        let worker = Some(worker.snapshot().await.into());
        if sender.send(Ok(WatchWorkerResponse { worker, sequence })).await.is_err() {
            return;
        }
        let next = async {
            time::sleep(PAUSE).await;
            // Err: nothing changes any more, and nothing will.
            drop(time::timeout(PERIOD - PAUSE, changes.changed()).await);
        };
        tokio::select! {
            () = next => {}
            () = sender.closed() => return,
            () = stopping.cancelled() => return,
        }
    }
}
