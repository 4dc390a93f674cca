//! A simulated X99: a host in network, mount and process namespaces of its own, with two cards. It boots
//! when a magic packet reaches it, and is gone as a whole when its agent switches it off.

mod wire;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

pub use self::wire::Wire;
use crate::{
    lab::{Daemon, HOSTS, Host, Lab, MODEL, Ports},
    process::{Process, command, output},
    wait::{Look, wait_for},
};

/// Hardware address of its card.
const MAC: &str = "02:00:00:00:00:40";

/// Slots of its cards.
pub const CARDS: [&str; 2] = ["0000:03:00.0", "0000:83:00.0"];

/// Everything that should happen takes seconds; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(180);

/// Waits for the packet, boots as slowly as one can watch, and starts over when it is switched off. `OFF` is a host
/// that does not hear, `LATE` one that takes its time.
const BOARD: &str = "\
#!/bin/sh
while :; do
    ip addr flush dev eth0
    PROGRAMS/homelab-firmware MAC || exit 1
    echo heard >> DIR/packets
    [ -e DIR/OFF ] && continue
    sleep 4
    [ -e DIR/LATE ] && sleep 6
    ip addr add INSIDE/30 broadcast + dev eth0
    unshare --mount --pid --fork --kill-child --mount-proc --propagation private DIR/boot
done
";

/// The first process of the host: when it ends, everything on the host does. `DIES` is one that does so before its
/// worker answers. Its cards use 10 W each.
const BOOT: &str = "\
#!/bin/sh
trap 'sleep 1; exit 0' TERM
mount -t tmpfs x99 /run && mkdir -p /run/systemd/sessions
mount -t tmpfs x99 /sys && mkdir -p /sys/class/net/eno1/device/power /sys/bus/pci/devices
echo enabled > /sys/class/net/eno1/device/power/wakeup
number=0
for slot in CARDS; do
    card=/sys/devices/$slot
    mkdir -p $card/hwmon/hwmon0 /sys/class/drm/card$number
    printf 'DRIVER=i915\\nPCI_SLOT_NAME=%s\\n' $slot > $card/uevent
    echo 0x8086 > $card/vendor
    echo 0x56a0 > $card/device
    echo 17095983104 > $card/lmem_total_bytes
    echo i915 > $card/hwmon/hwmon0/name
    echo 0 > $card/hwmon/hwmon0/energy1_input
    ln -s $card /sys/class/drm/card$number/device
    ln -s $card /sys/bus/pci/devices/$slot
    number=$((number + 1))
done
meter() {
    used=0
    while sleep 0.5; do
        used=$((used + 5000000))
        for slot in CARDS; do
            file=/sys/devices/$slot/hwmon/hwmon0/energy1_input
            echo $used > $file.next && mv $file.next $file
        done
    done
}
meter &
PROGRAMS/homelab-agent run --config ETC/x99-agent.toml &
[ -e DIR/DIES ] && { sleep 8; exit 1; }
PROGRAMS/homelab-gpu-worker run --config ETC/x99-gpu-worker.toml &
while :; do wait; sleep 1; done
";

/// Stands for systemd: ends the first process of the host.
const SYSTEMCTL: &str = "\
#!/bin/sh
echo \"$1\" >> DIR/orders
kill -TERM 1
";

/// The real engine, in a build that sees the card that it is shown.
const ENGINE: &str = "\
#!/bin/sh
case \" $* \" in *' --list-devices '*)
    echo 'Available devices:'
    echo '  Vulkan0: Intel(R) Arc(tm) A770 Graphics (DG2) (16288 MiB, 14655 MiB free)'
    exit 0
esac
exec LLAMA \"$@\"
";

/// What the site file says of its power.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// When a boot is given up, in seconds.
    pub boot_max: u32,
    /// Jobs that are worth waking it.
    pub jobs_min: u32,
}

/// A lab with that host.
#[derive(Debug)]
pub struct X99 {
    /// All the others.
    pub lab: Lab,
    folder: PathBuf,
    board: Process,
    wire: Wire,
}

impl X99 {
    /// A lab in which it is off. None where it cannot be: without root, or without namespaces.
    ///
    /// # Errors
    /// When a program is missing or fails; says which, and what it wrote.
    pub fn asleep(rules: Rules) -> anyhow::Result<Option<Self>> {
        let able = command("unshare").args(["--net", "--pid", "--fork", "true"]).output();
        if !nix::unistd::geteuid().is_root() || !able.is_ok_and(|it| it.status.success()) {
            return Ok(None);
        }
        let mut lab = Lab::prepare(Ports::free()?)?;
        // Laid after the lab and owned beside it, so that it outlives nothing that uses it.
        let wire = Wire::lay(MAC)?;
        lab.start_controller()?;
        lab.join(host("cw-nas"), Daemon::Agent)?;
        for daemon in host("x99").daemons {
            lab.join(host("x99"), *daemon)?;
        }
        lab.wait_for_hosts(&[("x99", "ANSWERING")])?;
        lab.switch_off(host("x99"))?;
        let folder = lab.folder().join("x99");
        fs::create_dir(&folder)?;
        move_out(&lab, &wire, &folder, rules)?;
        lab.process("controller")?.end()?;
        lab.restart("controller")?;
        let board = script(&lab, &folder, "board", &BOARD.replace("INSIDE", wire.address()))?;
        script(&lab, &folder, "boot", BOOT)?;
        let mut start = command("ip");
        start.args(["netns", "exec", wire.host()]).arg(board);
        let board = Process::start("x99", &lab.folder().join("logs"), &mut start)?;
        let x99 = Self { lab, folder, board, wire };
        x99.until("asleep")?;
        Ok(Some(x99))
    }

    /// Gives it a fault: `OFF`, `LATE` or `DIES`.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub fn set(&self, fault: &str) -> anyhow::Result<()> {
        fs::write(self.folder.join(fault), "").context("a fault")
    }

    /// Takes a fault from it.
    ///
    /// # Errors
    /// When it has none of that name.
    pub fn clear(&self, fault: &str) -> anyhow::Result<()> {
        fs::remove_file(self.folder.join(fault)).context("no fault")
    }

    /// Its row in `labctl power list`.
    ///
    /// # Errors
    /// When the controller does not answer.
    pub fn power(&self) -> anyhow::Result<Value> {
        let power = self.lab.labctl_json(&["power", "list"])?;
        Ok(power["hosts"][0].clone())
    }

    /// Waits until the controller sees it `asleep`, `waking`, `awake`.
    ///
    /// # Errors
    /// When that does not come about; says how it stands.
    pub fn until(&self, state: &str) -> anyhow::Result<Value> {
        wait_for(&format!("x99 is {state}"), PATIENCE, || {
            let power = self.power()?;
            let there = power["state"] == format!("POWER_STATE_{}", state.to_uppercase());
            Ok(if there { Look::Ready(power) } else { Look::NotYet(power.to_string()) })
        })
    }

    /// Its boots, the newest first.
    ///
    /// # Errors
    /// When the controller does not answer.
    pub fn boots(&self) -> anyhow::Result<Vec<Value>> {
        let report = self.lab.labctl_json(&["power", "report"])?;
        Ok(report["boots"].as_array().cloned().unwrap_or_default())
    }

    /// Waits until its newest boot has failed for `reason`, and returns it.
    ///
    /// # Errors
    /// When that does not come about; says how it booted.
    pub fn until_failed(&self, reason: &str) -> anyhow::Result<Value> {
        wait_for(reason, PATIENCE, || {
            let boot = self.boots()?.first().cloned().unwrap_or_default();
            let failed = boot["failure"]["reason"] == reason;
            Ok(if failed { Look::Ready(boot) } else { Look::NotYet(boot.to_string()) })
        })
    }

    /// Submits a job for it that nobody waits for, and returns its id.
    ///
    /// # Errors
    /// When it is refused.
    pub fn submit(&self, words: &str, tokens: u32) -> anyhow::Result<String> {
        let tokens = tokens.to_string();
        let submit = ["job", "submit", "--tier", "silver", "--tokens-max", &tokens, words];
        let job = self.lab.labctl_json(&submit)?;
        job["job"]["jobId"].as_str().map(str::to_owned).context("no job")
    }

    /// A job with its events, as `labctl job show` has it.
    ///
    /// # Errors
    /// When the controller does not answer.
    pub fn job(&self, id: &str) -> anyhow::Result<Value> {
        self.lab.labctl_json(&["job", "show", id])
    }

    /// Waits until a job is in a state, and returns it with its events.
    ///
    /// # Errors
    /// When that does not come about; says how it stands.
    pub fn until_job(&self, id: &str, state: &str) -> anyhow::Result<Value> {
        wait_for(&format!("the job is {state}"), PATIENCE, || {
            let job = self.job(id)?;
            let there = job["job"]["state"] == format!("JOB_STATE_{}", state.to_uppercase());
            Ok(if there { Look::Ready(job) } else { Look::NotYet(job["job"].to_string()) })
        })
    }

    /// Waits until its engines stand as `wished`, and returns them: as the controller last saw them.
    ///
    /// # Errors
    /// When that does not come about; says how they stand.
    pub fn until_engines(
        &self,
        what: &str,
        wished: impl Fn(&[Value]) -> bool,
    ) -> anyhow::Result<Vec<Value>> {
        let controller = self.lab.ports().grpc().to_string();
        wait_for(what, PATIENCE, || {
            let list = ["homelab.controller.v1.JobService/ListWorkers"];
            let answer: Value =
                serde_json::from_str(&self.lab.grpcurl(&controller, &[], &list)?)?;
            let workers = answer["workers"].as_array().into_iter().flatten();
            let x99 = workers.into_iter().find(|worker| worker["host"] == "x99");
            let engines = x99.map(|worker| worker["worker"]["engines"].clone()).unwrap_or_default();
            let engines = engines.as_array().cloned().unwrap_or_default();
            Ok(if wished(&engines) {
                Look::Ready(engines)
            } else {
                Look::NotYet(format!("{engines:?}"))
            })
        })
    }

    /// How often it was told to go off.
    #[must_use]
    pub fn orders(&self) -> usize {
        self.lines("orders")
    }

    /// How often its card has heard a packet that wakes it.
    #[must_use]
    pub fn packets(&self) -> usize {
        self.lines("packets")
    }

    /// Kills the engine on a card, as if that had hung itself up for good.
    ///
    /// # Errors
    /// When there is none.
    pub fn kill_engine_on(&self, card: &str) -> anyhow::Result<()> {
        let shown = format!("DRI_PRIME=pci-{}", card.replace([':', '.'], "_"));
        let engine = self.processes().into_iter().find(|pid| {
            let read = |file| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
            read("environ").contains(&shown) && read("cmdline").contains("--api-key-file")
        });
        let engine = engine.with_context(|| format!("no engine runs on {card}"))?;
        kill(Pid::from_raw(engine), Signal::SIGKILL).context("kill the engine")
    }

    /// Somebody logs in on it, or leaves.
    ///
    /// # Errors
    /// When it is off.
    pub fn log_in(&self, is_there: bool) -> anyhow::Result<()> {
        let agent = self.processes().into_iter().find(|pid| {
            let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.contains("homelab-agent")
        });
        let agent = agent.context("its agent does not run")?;
        let session = PathBuf::from(format!("/proc/{agent}/root/run/systemd/sessions/4"));
        if is_there {
            fs::write(session, "UID=1000\nUSER=ben\nSTATE=active\nCLASS=user\nTTY=tty1\n")
        } else {
            fs::remove_file(session)
        }
        .context("a session on it")
    }

    /// Asks for a page of the dashboard as somebody who is logged in.
    ///
    /// # Errors
    /// When it is refused.
    pub fn page(&self, path: &str) -> anyhow::Result<String> {
        let jar = self.folder.join("cookies");
        if !jar.is_file() {
            let link = self.lab.labctl(&["dashboard"])?;
            let token = link.trim().rsplit_once('/').context("the link has no token")?.1;
            let mut post = self.lab.curl("/login");
            post.args(["--header", "sec-fetch-site: same-origin", "--cookie-jar"]).arg(&jar);
            output(post.arg("--data").arg(format!("token={token}")))?;
        }
        output(self.lab.curl(path).arg("--cookie").arg(&jar))
    }

    /// Switches everything off, and says what is left of it all the same.
    ///
    /// # Errors
    /// When that cannot be found out.
    pub fn take_down(self) -> anyhow::Result<Vec<String>> {
        let (port, space) = (self.wire.port().to_owned(), self.wire.host().to_owned());
        let folder = self.lab.folder().display().to_string();
        drop(self);
        let mut left = Wire::left(&port, &space)?;
        for entry in fs::read_dir("/proc")?.flatten() {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            if command.contains(&folder) {
                left.push(command);
            }
        }
        Ok(left)
    }

    fn lines(&self, file: &str) -> usize {
        fs::read_to_string(self.folder.join(file)).unwrap_or_default().lines().count()
    }

    /// All processes of the host.
    fn processes(&self) -> Vec<i32> {
        let mut found = children(self.board.pid());
        let mut looked = 0;
        while let Some(pid) = found.get(looked).copied() {
            found.extend(children(pid.unsigned_abs()));
            looked += 1;
        }
        found
    }
}

impl Drop for X99 {
    fn drop(&mut self) {
        let host = self.processes();
        // The board first, so that it starts nothing more.
        drop(self.board.kill_9());
        for pid in host {
            // With the first one of the host all others end.
            let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// Children of a process; its threads may each have some.
fn children(pid: u32) -> Vec<i32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("children")).ok();
    let text = threads.filter_map(of).collect::<Vec<_>>().join(" ");
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

fn host(name: &str) -> &'static Host {
    HOSTS.iter().find(|host| host.name == name).unwrap_or(&HOSTS[0])
}

/// Gives the host its own address, and a power that fits into a test.
fn move_out(lab: &Lab, wire: &Wire, folder: &Path, rules: Rules) -> anyhow::Result<()> {
    let (etc, x99) = (lab.folder().join("etc"), host("x99"));
    let site = etc.join("homelab.toml");
    let Rules { boot_max, jobs_min } = rules;
    let power = format!(
        "power = {{ from = \"cw-nas\", interface = \"{}\", idle = \"5s\", boot = \"6s\", \
         boot-max = \"{boot_max}s\", off-min = \"1s\", jobs-min = {jobs_min} }}",
        wire.port()
    );
    let moved = |text: &str| text.replace(&x99.address.to_string(), wire.address());
    let lines = fs::read_to_string(&site)?;
    let lines = lines.lines().map(|line| match line.starts_with("power = ") {
        true => power.clone(),
        false => moved(line),
    });
    fs::write(&site, lines.collect::<Vec<_>>().join("\n"))?;
    let systemctl = script(lab, folder, "systemctl", SYSTEMCTL)?;
    let engine = script(lab, folder, "llama-server", ENGINE)?;
    let agent = etc.join("x99-agent.toml");
    let text = moved(&fs::read_to_string(&agent)?);
    let may = format!("\n[power]\nmay-sleep = true\nsystemctl = \"{}\"\n", systemctl.display());
    fs::write(&agent, text + &may)?;
    let worker = etc.join("x99-gpu-worker.toml");
    let text = moved(&fs::read_to_string(&worker)?);
    let (head, _) = text.split_once("[[engine]]").context("no engine is configured")?;
    let mut text = head.to_owned();
    for (name, card) in ["left", "right"].into_iter().zip(CARDS) {
        // What the development build takes: it knows of no cards.
        text += &format!(
            "[[engine]]\nname = \"{name}\"\ndevice = \"{card}\"\nbackend = \"vulkan\"\n\
             load = \"{MODEL}-silver\"\ncommand = [\"{}\", \"--host\", \"{{host}}\", \"--port\", \
             \"{{port}}\", \"-m\", \"{{model}}\", \"-a\", \"{{alias}}\", \"-c\", \
             \"{{context_total}}\", \"-np\", \"{{slots}}\", \"--api-key-file\", \"{{key_file}}\", \
             \"--metrics\", \"--slots\", \"-t\", \"1\"]\n\n",
            engine.display()
        );
    }
    let model = lab.root().join(".dev/engine/model.gguf");
    text += &format!(
        "[[model]]\nname = \"{MODEL}-silver\"\npath = \"{}\"\ncontext = 4096\nslots = 1\n",
        model.display()
    );
    fs::write(&worker, text).context("write its configuration")
}

fn script(lab: &Lab, folder: &Path, name: &str, text: &str) -> anyhow::Result<PathBuf> {
    let path = folder.join(name);
    let engine = lab.root().join(".dev/engine/bin/llama-server");
    let text = text
        .replace("PROGRAMS", &lab.programs().display().to_string())
        .replace("ETC", &lab.folder().join("etc").display().to_string())
        .replace("DIR", &folder.display().to_string())
        .replace("LLAMA", &engine.display().to_string())
        .replace("CARDS", &CARDS.join(" "))
        .replace("MAC", MAC);
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
    Ok(path)
}
