use std::fs;

use homelab_common::clock::ManualClock;
use homelab_common::exec::fake::{Answer, FakeExec};
use tempfile::TempDir;

use super::*;

/// A host on which nothing happens.
struct Quiet {
    folder: TempDir,
    exec: Arc<FakeExec>,
}

impl Quiet {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let quiet = Self { folder, exec: Arc::new(FakeExec::default()) };
        fs::create_dir_all(quiet.path("run/systemd/sessions")).unwrap();
        fs::create_dir_all(quiet.path("state")).unwrap();
        quiet.process(1, "/sbin/init");
        quiet.write("proc/stat", "cpu 1 2 3\nbtime 1790000000\nprocesses 7\n");
        quiet.write("sys/class/net/enp3s0/device/power/wakeup", "enabled\n");
        quiet
    }

    /// The same with a program that answers.
    fn answering(self, program: &str, answer: Answer) -> Self {
        Self { exec: Arc::new(FakeExec::default().on(program, answer)), ..self }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn process(&self, pid: u32, command: &str) {
        self.write(&format!("proc/{pid}/cmdline"), &command.replace(' ', "\0"));
    }

    fn power(&self) -> Power {
        let roots = Roots { proc: self.path("proc"), sys: self.path("sys"), run: self.path("run") };
        let config = PowerConfig { may_sleep: true, ..PowerConfig::default() };
        let clock = Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH));
        Power::new(config, roots, self.path("state"), clock, self.exec.clone())
    }

    async fn facts(&self) -> Vec<(Word, String)> {
        let facts = self.power().look().await.facts;
        facts.into_iter().map(|fact| (fact.word, fact.message)).collect()
    }
}

fn asked(request_id: &str, fence: u64) -> Asked {
    Asked { request_id: request_id.to_owned(), validate_only: false, fence }
}

#[tokio::test]
async fn nothing_speaks_against_a_quiet_host() {
    let quiet = Quiet::new();
    let state = quiet.power().look().await;
    assert_eq!(state.facts, []);
    assert_eq!(state.wake_armed, Some(true));
    assert_eq!(state.awake_since, Timestamp::from_second(1_790_000_000).ok());
}

#[tokio::test]
async fn people_who_are_logged_in_are_named_and_services_are_not() {
    let quiet = Quiet::new();
    let session = |id: &str, text: &str| quiet.write(&format!("run/systemd/sessions/{id}"), text);
    session("4", "UID=0\nUSER=root\nSTATE=active\nCLASS=user\nTTY=pts/0\nREMOTE_HOST=192.0.2.9\n");
    session("5", "USER=ada\nSTATE=closing\nCLASS=user\n");
    session("c1", "USER=gdm\nSTATE=online\nCLASS=greeter\n");
    session("4.ref", "");
    assert_eq!(
        quiet.facts().await,
        [(Word::SessionsOpen, "root is logged in (pts/0 from 192.0.2.9)".to_owned())]
    );
}

#[tokio::test]
async fn where_nobody_keeps_account_of_logins_nobody_knows() {
    let quiet = Quiet::new();
    fs::remove_dir(quiet.path("run/systemd/sessions")).unwrap();
    let facts = quiet.facts().await;
    assert_eq!(facts.len(), 1);
    assert_eq!(facts[0].0, Word::FactUnknown);
    assert!(facts[0].1.starts_with("nobody knows who is logged in"), "{}", facts[0].1);
}

#[tokio::test]
async fn guests_backups_and_tasks_are_seen_among_the_processes() {
    let quiet = Quiet::new();
    quiet.process(10, "/usr/bin/kvm -id 101 -name openwrt,debug-threads=on -m 512");
    quiet.process(11, "/usr/bin/lxc-start -F -n 105");
    quiet.process(12, "/usr/bin/perl -T /usr/bin/vzdump 101 --mode snapshot");
    quiet.process(13, "/usr/bin/rsync -a /a /b");
    quiet.process(14, "/usr/sbin/zfs send tank/a@b");
    quiet.process(15, "/usr/sbin/zfs list");
    quiet.process(16, "/usr/bin/llama-server --port 1");
    quiet.write("proc/17/cmdline", "task UPID:x99:0001:0002:6500:qmigrate:101:root@pam:");
    let messages: Vec<String> = quiet.facts().await.into_iter().map(|fact| fact.1).collect();
    assert_eq!(
        messages,
        [
            "container 105 runs",
            "guest 101 (openwrt) runs",
            "Proxmox runs qmigrate 101",
            "rsync runs",
            "vzdump runs",
            "zfs sends or receives",
        ]
    );
}

#[tokio::test]
async fn processes_that_are_hidden_are_unknown_and_not_absent() {
    let quiet = Quiet::new();
    fs::remove_dir_all(quiet.path("proc/1")).unwrap();
    let facts = quiet.facts().await;
    assert_eq!(facts.len(), 1);
    assert_eq!(facts[0].0, Word::FactUnknown);
    assert!(facts[0].1.contains("processes of others cannot be seen"), "{}", facts[0].1);
}

#[tokio::test]
async fn scrubs_of_pools_and_checks_of_arrays_are_seen() {
    let quiet = Quiet::new();
    fs::create_dir_all(quiet.path("proc/spl/kstat/zfs/tank")).unwrap();
    quiet.write("proc/mdstat", "md0 : active raid1\n  [=>..]  check =  8.6% (1/12)\n");
    let status = "  pool: tank\n state: ONLINE\n  scan: scrub in progress since Sun Nov 22\n";
    let quiet = quiet.answering("zpool", Answer::stdout(status));
    let facts = quiet.facts().await;
    assert!(facts.iter().all(|fact| fact.0 == Word::ScrubRunning), "{facts:?}");
    assert_eq!(facts.len(), 2);
    assert_eq!(facts[1].1, "a scrub of pool tank runs");
}

#[tokio::test]
async fn a_pool_that_cannot_be_asked_is_unknown() {
    let quiet = Quiet::new();
    fs::create_dir_all(quiet.path("proc/spl/kstat/zfs/tank")).unwrap();
    let quiet = quiet
        .answering("zpool", Answer::exit(1, "Permission denied the ZFS utilities must be run"));
    assert_eq!(quiet.facts().await[0].0, Word::FactUnknown);
}

#[tokio::test]
async fn programs_that_keep_the_system_awake_are_heard() {
    let quiet = Quiet::new();
    let inhibit = |id: &str, text: &str| quiet.write(&format!("run/systemd/inhibit/{id}"), text);
    inhibit("1", "WHAT=shutdown:sleep\nMODE=block\nWHO=fwupd\nWHY=Firmware\\x20update\n");
    inhibit("2", "WHAT=sleep\nMODE=delay\nWHO=NetworkManager\nWHY=it needs to\n");
    inhibit("3", "WHAT=handle-lid-switch\nMODE=block\nWHO=x\nWHY=y\n");
    assert_eq!(
        quiet.facts().await,
        [(Word::Inhibited, "fwupd keeps it awake: Firmware update".to_owned())]
    );
}

#[tokio::test]
async fn a_quiet_host_is_switched_off_once_for_a_call() {
    let quiet = Quiet::new().answering("systemctl", Answer::stdout(""));
    let power = quiet.power();
    let first = power.sleep(Mode::PowerOff, asked("a", 3)).await.unwrap();
    assert_eq!(power.sleep(Mode::PowerOff, asked("a", 3)).await.unwrap(), first);
    let calls: Vec<_> = quiet.exec.calls().into_iter().map(|call| call.argv).collect();
    assert_eq!(calls, [["/usr/bin/systemctl", "poweroff"]]);
    // Another process of the agent remembers it.
    assert_eq!(quiet.power().sleep(Mode::PowerOff, asked("a", 3)).await.unwrap(), first);
}

#[tokio::test]
async fn an_attempt_that_is_over_does_nothing() {
    let quiet = Quiet::new().answering("systemctl", Answer::stdout(""));
    let power = quiet.power();
    power.sleep(Mode::Suspend, asked("a", 3)).await.unwrap();
    let late = power.sleep(Mode::PowerOff, asked("b", 2)).await;
    assert!(matches!(late, Err(SleepError::Stale { have: 3, got: 2 })), "{late:?}");
    assert_eq!(quiet.exec.calls().len(), 1);
}

#[tokio::test]
async fn an_order_that_was_made_void_does_nothing_when_it_arrives() {
    let quiet = Quiet::new().answering("systemctl", Answer::stdout(""));
    assert_eq!(quiet.power().void(4).await.unwrap(), None);
    // Another process of the agent remembers it.
    let late = quiet.power().sleep(Mode::PowerOff, asked("a", 3)).await;
    assert!(matches!(late, Err(SleepError::Stale { have: 4, got: 3 })), "{late:?}");
    assert_eq!(quiet.exec.calls().len(), 0);
    quiet.power().sleep(Mode::PowerOff, asked("b", 5)).await.unwrap();
    assert_eq!(quiet.exec.calls().len(), 1);
}

#[tokio::test]
async fn whoever_makes_an_order_void_learns_that_it_was_carried_out() {
    let quiet = Quiet::new().answering("systemctl", Answer::stdout(""));
    let power = quiet.power();
    let at = power.sleep(Mode::PowerOff, asked("a", 3)).await.unwrap();
    assert_eq!(power.void(4).await.unwrap(), Some(Obeyed { fence: 3, at }));
    // And again, when the answer was lost.
    assert_eq!(power.void(4).await.unwrap(), Some(Obeyed { fence: 3, at }));
    let late = power.void(2).await;
    assert!(matches!(late, Err(SleepError::Stale { have: 4, got: 2 })), "{late:?}");
}

#[tokio::test]
async fn whatever_speaks_against_it_keeps_it_on() {
    let quiet = Quiet::new();
    quiet.process(10, "/usr/bin/kvm -id 101");
    let vetoed = quiet.power().sleep(Mode::PowerOff, asked("a", 1)).await.unwrap_err();
    assert!(vetoed.to_string().contains("guest 101 runs"), "{vetoed}");
    assert_eq!(quiet.exec.calls().len(), 0);
}

#[tokio::test]
async fn a_host_that_was_not_told_so_is_never_switched_off() {
    let quiet = Quiet::new();
    let mut power = quiet.power();
    power.config.may_sleep = false;
    let vetoed = power.sleep(Mode::PowerOff, asked("a", 1)).await.unwrap_err();
    assert!(vetoed.to_string().contains("may-sleep"), "{vetoed}");
}

#[tokio::test]
async fn only_looking_switches_nothing_off() {
    let quiet = Quiet::new();
    let only = Asked { validate_only: true, ..asked("a", 1) };
    quiet.power().sleep(Mode::PowerOff, only).await.unwrap();
    assert_eq!(quiet.exec.calls().len(), 0);
}

#[tokio::test]
async fn a_system_that_does_not_obey_is_reported() {
    let quiet = Quiet::new()
        .answering("systemctl", Answer::exit(1, "Interactive authentication required."));
    // Nor is it taken for obedience by a caller who asks again, or who gives the order up.
    for _ in 0..2 {
        let refused = quiet.power().sleep(Mode::PowerOff, asked("a", 1)).await;
        assert!(matches!(refused, Err(SleepError::Refused(_))), "{refused:?}");
    }
    assert_eq!(quiet.power().void(2).await.unwrap(), None);
}
