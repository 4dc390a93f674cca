//! What the power of a host needs of the rest of the site.

use super::{SiteProblem, known};
use crate::site::{DaemonKind, ExpectedPower, Host, SiteDraft, WakeMethod};

impl SiteDraft {
    /// Looks at one host that is off until needed.
    pub(super) fn power_fits(&self, index: usize, host: &Host, problems: &mut Vec<SiteProblem>) {
        let name = &host.name;
        let mut problem = |key: &str, message: String| {
            problems.push(SiteProblem::new(format!("host[{index}].{key}"), message));
        };
        let power = &host.power;
        if power.boot_max < power.boot {
            problem("power.boot_max", "shorter than the expected boot".to_owned());
        }
        if power.rules.price_max.is_some() && power.price.is_none() && power.tariffs.is_empty() {
            let message = "without `price` or a tariff nobody knows what energy costs";
            problem("power.price_max", message.to_owned());
        }
        let WakeMethod::Packet { from, .. } = &power.wake else { return };
        if host.mac.is_none() {
            problem("mac", format!("`{name}` is on demand, and without a mac nothing can wake it"));
        }
        let senders = || known(self.hosts.iter().filter(|it| sends(it)).map(|it| &it.name));
        match from.as_ref().map(|from| (from, self.find_host(from))) {
            Some((from, None)) => {
                problem("power.from", format!("there is no host `{from}`; {}", senders()));
            }
            Some((from, Some(sender))) if !sends(sender) || sender.name == *name => {
                let message = format!("`{from}` is not always on with an agent; {}", senders());
                problem("power.from", message);
            }
            Some(_) | None => {}
        }
    }
}

/// Whether its agent can wake others.
fn sends(host: &Host) -> bool {
    host.expected_power == ExpectedPower::On && host.daemon(DaemonKind::Agent).is_some()
}
