//! A small network of its own: the machine, a switch, and the host that sleeps. It goes with its namespaces.

use anyhow::Context as _;

use crate::process::{command, output};

/// The segment that a magic packet has to cross.
#[derive(Debug)]
pub struct Wire {
    switch: String,
    host: String,
    port: String,
    address: String,
}

impl Wire {
    /// Lays it; `mac` is the hardware address of the host's card.
    ///
    /// # Errors
    /// When the system does not allow it; what was made until then is gone.
    pub fn lay(mac: &str) -> anyhow::Result<Self> {
        let pid = std::process::id();
        // Two tests that run side by side lay two wires.
        let subnet = format!("10.{}.{}", 96 + pid / 250 % 100, pid % 250);
        let wire = Self {
            switch: format!("hl-switch-{pid}"),
            host: format!("hl-x99-{pid}"),
            port: format!("hlx{pid}"),
            address: format!("{subnet}.2"),
        };
        let home = format!("{subnet}.1/30");
        let (switch, host, port) = (&wire.switch, &wire.host, &wire.port);
        let veth = ["type", "veth", "peer", "name"];
        ip(&["netns", "add", switch])?;
        ip(&["netns", "add", host])?;
        ip(&["-n", switch, "link", "add", "sw0", "type", "bridge"])?;
        ip(&[&["link", "add", port], &veth[..], &["port1", "netns", switch]].concat())?;
        let card = ["-n", host, "link", "add", "eth0", "address", mac];
        ip(&[&card[..], &veth, &["port2", "netns", switch]].concat())?;
        for plugged in ["port1", "port2"] {
            ip(&["-n", switch, "link", "set", plugged, "master", "sw0", "up"])?;
        }
        ip(&["-n", switch, "link", "set", "sw0", "up"])?;
        ip(&["addr", "add", &home, "broadcast", "+", "dev", port])?;
        ip(&["link", "set", port, "up"])?;
        for inside in ["eth0", "lo"] {
            ip(&["-n", host, "link", "set", inside, "up"])?;
        }
        Ok(wire)
    }

    /// The host's address, once it is on.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The namespace of the host.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The machine's own card in that network.
    #[must_use]
    pub fn port(&self) -> &str {
        &self.port
    }

    /// What of such a network is still there.
    ///
    /// # Errors
    /// When the system cannot be asked.
    pub fn left(port: &str, host: &str) -> anyhow::Result<Vec<String>> {
        let cards = ip(&["-o", "link"])?;
        let spaces = ip(&["netns", "list"])?;
        let lines = cards.lines().chain(spaces.lines());
        Ok(lines.filter(|it| it.contains(port) || it.contains(host)).map(str::to_owned).collect())
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // What is gone already needs no end. With one end of a cable goes the other, and with a namespace all
        // that is in it, though not at once.
        for gone in [
            ["link", "del", &self.port],
            ["netns", "del", &self.host],
            ["netns", "del", &self.switch],
        ] {
            drop(ip(&gone));
        }
    }
}

fn ip(words: &[&str]) -> anyhow::Result<String> {
    output(command("ip").args(words)).context("apt install iproute2")
}
