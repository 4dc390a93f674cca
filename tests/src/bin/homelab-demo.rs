//! Brings the main job up on real parts on loopback; see `homelab_tests::demo`.

use std::{
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
use nix::sys::signal::{SigSet, Signal};

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
    demo::screenshots(&story, &lab, folder)?;
    lab.stop()
}

/// A flag that Ctrl-C and SIGTERM raise, so that the lab is torn down in order.
fn on_ctrl_c() -> anyhow::Result<Arc<AtomicBool>> {
    let raised = Arc::new(AtomicBool::new(false));
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    let flag = Arc::clone(&raised);
    std::thread::spawn(move || {
        if signals.wait().is_ok() {
            flag.store(true, Ordering::Relaxed);
        }
    });
    Ok(raised)
}

#[expect(clippy::print_stderr, reason = "a program for people")]
fn say(words: &str) {
    eprintln!("{words}");
}
