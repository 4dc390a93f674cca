//! Brings the main job up on real parts on loopback; see `homelab_tests::demo`.

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::Parser;
use homelab_tests::{
    demo::{self, Story},
    lab::Ports,
};
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
};

/// The main job on real parts, on loopback: hosts, backups, a drill, a model, the dashboard.
#[derive(Debug, Parser)]
struct Args {
    /// Assert everything through public interfaces, then tear it down.
    #[arg(long)]
    check: bool,
    /// Have a real browser draw the dashboard into this folder, then tear everything down.
    #[arg(long, conflicts_with = "check", value_name = "FOLDER")]
    screenshots: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.screenshots {
        _ if args.check => demo::check(&Story::begin()),
        Some(folder) => pictures(folder),
        None => show(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("\nhomelab-demo: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn show() -> anyhow::Result<()> {
    let stop = on_ctrl_c()?;
    let story = Story::begin();
    let mut lab = demo::bring_up(&story, Ports::usual_or_free()?)?;
    demo::back_up_and_drill(&story, &lab)?;
    demo::ask(&story, &lab)?;
    story.tell(&demo::what_now(&lab)?)?;
    demo::stay_up(&story, &mut lab, || stop.load(Ordering::Relaxed))
}

fn pictures(folder: &Path) -> anyhow::Result<()> {
    let story = Story::begin();
    let mut lab = demo::bring_up(&story, Ports::free()?)?;
    demo::back_up_and_drill(&story, &lab)?;
    demo::ask(&story, &lab)?;
    lab.labctl(&["job", "submit", "--tier", "silver", "Plan the move to VLANs."])?;
    // More than the context of the model holds: it fails, and the page says why.
    lab.labctl(&["job", "submit", &"Why? ".repeat(4_000)])?;
    demo::screenshots(&story, &lab, folder)?;
    lab.stop()
}

/// A flag that Ctrl-C and SIGTERM raise, so that the lab is torn down in order. By handlers and not by
/// blocking the signals: children would inherit that, and no daemon could be told to end.
fn on_ctrl_c() -> anyhow::Result<Arc<AtomicBool>> {
    let raised = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&raised);
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let mut signals = runtime.block_on(async {
        io::Result::Ok((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
    })?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = signals.0.recv() => (),
                _ = signals.1.recv() => (),
            }
        });
        flag.store(true, Ordering::Relaxed);
    });
    Ok(raised)
}

#[expect(clippy::print_stderr, reason = "a program for people")]
fn say(words: &str) {
    eprintln!("{words}");
}
