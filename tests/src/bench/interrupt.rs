//! Ctrl-C and SIGTERM: long loops ask, so that what they started is ended in order.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{Context as _, bail};
use tokio::signal::unix::{SignalKind, signal};

static RAISED: AtomicBool = AtomicBool::new(false);

/// Begins to listen.
pub(super) fn listen() -> anyhow::Result<()> {
    let runtime = super::runtime()?;
    let both = async {
        io::Result::Ok((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
    };
    let (mut interrupt, mut terminate) = runtime.block_on(both).context("listen for signals")?;
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => (),
                _ = terminate.recv() => (),
            }
        });
        RAISED.store(true, Ordering::Relaxed);
    });
    Ok(())
}

/// Fails once one of them has come.
pub(super) fn check() -> anyhow::Result<()> {
    if RAISED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}
