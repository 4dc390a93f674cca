//! Hosts of the real fleet: their agents and workers over gRPC, plugs over HTTP, and one program.

use std::{io::ErrorKind, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use homelab_common::{
    error_chain::Chain,
    exec::{Exec, Program},
};
use homelab_domain::{
    ids::HostName,
    reason::{Because, Reason},
    site::{DaemonKind, ExpectedPower, Host, Site, SleepMethod, WakeMethod},
};
use homelab_proto::{
    agent::v1::{
        GetPowerStateRequest, GetPowerStateResponse, PowerOffRequest, SuspendRequest,
        VoidSleepRequest, WakeRequest, power_service_client::PowerServiceClient,
    },
    inference::v1::{DrainRequest, inference_service_client::InferenceServiceClient},
};
use homelab_rpc::{dial::layer_of, node::from_proto};
use tokio::{net::TcpStream, time::timeout};
use tonic::{Status, transport::Channel};

use super::{
    hands::{Hands, Look, Obeyed, Seen, SleepOrder},
    plug,
};
use crate::fleet::Fleet;

/// How long an agent may take for what it can say at once.
const QUESTION_MAX: Duration = Duration::from_secs(8);

/// How long a host in the house takes to answer or refuse.
const KNOCK_MAX: Duration = Duration::from_secs(1);

/// How long the program may take that wakes a host.
const COMMAND_MAX: Duration = Duration::from_secs(30);

/// How long an agent may take to put its host to sleep.
const SLEEP_MAX: Duration = Duration::from_secs(25);

/// Beyond what a worker was told to wait.
const SLACK: Duration = Duration::from_secs(5);

/// Agents that send for one host: more say nothing that these do not.
const SENDERS_MAX: usize = 8;

/// Knocked at where a host has no agent.
const SSH: u16 = 22;

/// The real hosts.
#[derive(Clone, Debug)]
pub struct FleetHands {
    fleet: Fleet,
    exec: Arc<dyn Exec>,
}

impl FleetHands {
    /// Hosts of `fleet`; commands run by `exec`.
    #[must_use]
    pub fn new(fleet: Fleet, exec: Arc<dyn Exec>) -> Self {
        Self { fleet, exec }
    }

    fn channel(&self, host: &HostName, kind: DaemonKind) -> Result<Channel, String> {
        let channel = self.fleet.channel(host, kind);
        channel.ok_or_else(|| format!("the {kind} of {host} does not answer"))
    }

    /// Has agents near the host broadcast for it.
    async fn broadcast(
        &self,
        host: &Host,
        site: &Site,
        from: Option<&HostName>,
        interface: Option<&str>,
    ) -> Result<String, String> {
        let Some(mac) = host.mac else { return Err(format!("{} has no mac", host.name)) };
        let senders = senders(host, site, from);
        let (mut sent, mut failed) = (Vec::new(), Vec::new());
        for name in senders.into_iter().take(SENDERS_MAX) {
            let request = WakeRequest {
                mac: mac.to_string(),
                interface: interface.unwrap_or_default().to_owned(),
            };
            let asked = async {
                let channel = self.channel(&name, DaemonKind::Agent)?;
                let mut client = PowerServiceClient::new(channel);
                within(QUESTION_MAX, client.wake(request)).await
            };
            match asked.await {
                Ok(answer) => sent.push(format!("{} by {name}", answer.into_inner().packets)),
                Err(why) => failed.push(format!("{name}: {why}")),
            }
        }
        match (sent.is_empty(), failed.is_empty()) {
            (false, _) => Ok(format!("magic packets were sent: {}", sent.join(", "))),
            (true, false) => Err(failed.join("; ")),
            (true, true) => {
                Err("no host that is always on has an agent that could send it".to_owned())
            }
        }
    }
}

#[async_trait]
impl Hands for FleetHands {
    fn seen(&self, host: &HostName) -> Option<Seen> {
        let view = self.fleet.host(host)?;
        let connected = |kind| view.daemon(kind).is_some_and(|daemon| daemon.connected);
        let worker = self.fleet.workers().into_iter().find(|worker| worker.host == *host);
        Some(Seen {
            state: view.standing.state,
            agent: connected(DaemonKind::Agent),
            worker: connected(DaemonKind::GpuWorker),
            snapshot: worker.and_then(|worker| worker.worker),
            drained: view.standing.drained,
        })
    }

    fn dial_soon(&self) {
        self.fleet.dial_soon();
    }

    async fn knock(&self, host: &Host) -> bool {
        // Loopback answers for hosts that are not there.
        if host.address.is_loopback() {
            return false;
        }
        let port = host.daemon(DaemonKind::Agent).map_or(SSH, |daemon| daemon.port);
        let knocked = TcpStream::connect(SocketAddr::new(host.address, port));
        match timeout(KNOCK_MAX, knocked).await {
            Ok(Ok(_)) => true,
            Ok(Err(error)) => error.kind() == ErrorKind::ConnectionRefused,
            Err(_) => false,
        }
    }

    async fn signal(&self, host: &Host, site: &Site) -> Result<String, String> {
        match &host.power.wake {
            WakeMethod::Packet { from, interface } => {
                self.broadcast(host, site, from.as_ref(), interface.as_deref()).await
            }
            WakeMethod::Plug { url } => {
                plug::ask(url).await.map(|()| "its plug was switched on".to_owned())
            }
            WakeMethod::Command { argv } => {
                let Some((program, args)) = argv.split_first() else {
                    return Err("the site file names no command".to_owned());
                };
                let run = Program::new(program).args(args.iter().cloned()).deadline(COMMAND_MAX);
                let done = self.exec.run(run).await;
                done.map(|_| format!("{program} was run")).map_err(|it| Chain(&it).to_string())
            }
        }
    }

    async fn look(&self, host: &HostName) -> Result<Look, String> {
        let mut client = PowerServiceClient::new(self.channel(host, DaemonKind::Agent)?);
        let asked = client.get_power_state(GetPowerStateRequest {});
        let state = within(QUESTION_MAX, asked).await?.into_inner();
        Ok(Look { vetoes: vetoes(&state), wake_armed: state.wake_armed })
    }

    async fn drain(&self, host: &HostName, drain: bool, wait: Duration) -> Result<u32, String> {
        let channel = self.channel(host, DaemonKind::GpuWorker)?;
        let request = DrainRequest { drain, wait: prost_types::Duration::try_from(wait).ok() };
        let mut client = InferenceServiceClient::new(channel);
        let asked = client.drain(request);
        Ok(within(wait + SLACK, asked).await?.into_inner().running)
    }

    async fn sleep(&self, host: &HostName, order: SleepOrder) -> Result<(), String> {
        let mut client = PowerServiceClient::new(self.channel(host, DaemonKind::Agent)?);
        let SleepOrder { request_id, fence, method } = order;
        match method {
            SleepMethod::Suspend => {
                let request = SuspendRequest { request_id, validate_only: false, fence };
                within(SLEEP_MAX, client.suspend(request)).await.map(drop)
            }
            SleepMethod::PowerOff | SleepMethod::Never => {
                let request = PowerOffRequest { request_id, validate_only: false, fence };
                within(SLEEP_MAX, client.power_off(request)).await.map(drop)
            }
        }
    }

    async fn void(&self, host: &HostName, fence: u64) -> Result<Option<Obeyed>, String> {
        let mut client = PowerServiceClient::new(self.channel(host, DaemonKind::Agent)?);
        // As long as for an order: the agent may be in the midst of carrying one out.
        let asked = client.void_sleep(VoidSleepRequest { fence });
        let answer = within(SLEEP_MAX, asked).await?.into_inner();
        let at = answer.obeyed_at.as_ref().and_then(from_proto);
        let obeyed = answer.obeyed_fence.zip(at);
        Ok(obeyed.map(|(fence, at)| Obeyed { fence, at }))
    }
}

/// Who sends the packet: whom the site file names, or every host that is always on and in the same
/// segment; when none is, every one that is always on.
fn senders(host: &Host, site: &Site, from: Option<&HostName>) -> Vec<HostName> {
    if let Some(from) = from {
        return vec![from.clone()];
    }
    let able: Vec<&Host> = site
        .hosts()
        .iter()
        .filter(|it| it.expected_power == ExpectedPower::On && it.name != host.name)
        .filter(|it| it.daemon(DaemonKind::Agent).is_some())
        .collect();
    let near = |it: &&&Host| {
        site.networks()
            .iter()
            .any(|segment| segment.cidr.contains(host.address) && segment.cidr.contains(it.address))
    };
    let close: Vec<HostName> = able.iter().filter(near).map(|it| it.name.clone()).collect();
    if close.is_empty() { able.iter().map(|it| it.name.clone()).collect() } else { close }
}

/// What speaks against sleeping, by its word where the agent gives one.
fn vetoes(state: &GetPowerStateResponse) -> Vec<Because> {
    if state.facts.len() != state.vetoes.len() {
        let unknown = |message: &String| Because::new(Reason::FACT_UNKNOWN, message.clone());
        return state.vetoes.iter().map(unknown).collect();
    }
    let known = |word: &str| Reason::try_new(word).unwrap_or(Reason::FACT_UNKNOWN);
    state.facts.iter().map(|it| Because::new(known(&it.reason), it.message.clone())).collect()
}

async fn within<T>(
    limit: Duration,
    asked: impl Future<Output = Result<T, Status>>,
) -> Result<T, String> {
    match timeout(limit, asked).await {
        Ok(answer) => answer.map_err(|status| {
            layer_of(&status).map_or_else(|| status.message().to_owned(), |(_, words)| words)
        }),
        Err(_) => Err(format!("no answer within {} s", limit.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use crate::site::SiteFile;

    use super::*;

    const SITE: &str = r#"
[site]
name = "home"
[[network]]
name = "mgmt"
cidr = "192.0.2.0/25"
[[network]]
name = "far"
cidr = "192.0.2.128/25"
[[host]]
name = "near"
address = "192.0.2.1"
daemons = ["agent"]
[[host]]
name = "far"
address = "192.0.2.200"
daemons = ["agent"]
[[host]]
name = "mute"
address = "192.0.2.3"
[[host]]
name = "x99"
address = "192.0.2.40"
expected-power = "on-demand"
mac = "02:00:00:00:00:01"
daemons = ["agent"]
"#;

    #[test]
    fn those_in_the_same_segment_send_and_without_any_everybody_does() {
        let file = SiteFile::parse("homelab.toml", SITE, jiff::Timestamp::UNIX_EPOCH)
            .unwrap_or_else(|report| panic!("{report}"));
        let name = |text: &str| HostName::try_new(text).expect("a name");
        let x99 = file.site.host(&name("x99")).expect("declared").clone();
        assert_eq!(senders(&x99, &file.site, None), [name("near")]);
        assert_eq!(senders(&x99, &file.site, Some(&name("far"))), [name("far")]);
        let alone = Host { address: [198, 51, 100, 1].into(), ..x99 };
        assert_eq!(senders(&alone, &file.site, None), [name("near"), name("far")]);
    }

    #[test]
    fn an_agent_that_gives_no_words_is_heard_all_the_same() {
        let state =
            GetPowerStateResponse { vetoes: vec!["it snows".to_owned()], ..Default::default() };
        assert_eq!(vetoes(&state), [Because::new(Reason::FACT_UNKNOWN, "it snows")]);
    }
}
