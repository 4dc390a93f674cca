//! What a firewall's configuration holds, counted and compared.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::xml::Element;

/// What a configuration holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpnsenseContents {
    /// The firewall as its configuration describes it.
    pub facts: Facts,
    /// What the owner says that must be there.
    #[serde(default)]
    pub expected: Expected,
    /// What became of the copy without secrets.
    pub redacted: Published,
    /// Values that are masked in it.
    pub masked: u64,
}

/// A firewall, as its configuration describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Host name with its domain.
    pub host: String,
    /// The version that the file states; newer ones state none.
    pub version: Option<String>,
    /// The change that made this configuration.
    pub revision: Revision,
    /// The elements below the root, sorted.
    pub sections: Vec<String>,
    /// How many there are of what, by name: `interfaces`, `rules`, `users` and so on.
    pub counts: BTreeMap<String, u64>,
    /// Its interfaces.
    pub interfaces: Vec<Interface>,
    /// Its VLANs.
    pub vlans: Vec<Vlan>,
    /// Its gateways.
    pub gateways: Vec<Gateway>,
}

/// The change that made a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// Seconds since 1970 as OPNsense writes them, such as `1763865600.1234`.
    pub time: String,
    /// Who changed it.
    pub user: Option<String>,
    /// What was changed.
    pub description: Option<String>,
}

impl Revision {
    /// When it was made, to the second.
    #[must_use]
    pub fn moment(&self) -> Option<Timestamp> {
        let seconds = self.time.split('.').next()?.parse().ok()?;
        Timestamp::from_second(seconds).ok()
    }
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// `lan`, `wan`, `opt1` and so on.
    pub name: String,
    /// The device, such as `igb0` or `vlan0.30`.
    pub device: Option<String>,
    /// What its owner calls it.
    pub description: Option<String>,
    /// Whether it is in use.
    pub enabled: bool,
    /// `dhcp`, or an address with its prefix length: `192.168.30.1/24`.
    pub ipv4: Option<String>,
}

/// One VLAN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vlan {
    /// Its tag.
    pub tag: u16,
    /// The device below it.
    pub parent: Option<String>,
    /// The device that it makes.
    pub device: Option<String>,
    /// What its owner calls it.
    pub description: Option<String>,
}

/// One gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gateway {
    /// Its name.
    pub name: String,
    /// The interface behind which it is.
    pub interface: Option<String>,
    /// Its address; absent when it comes by DHCP.
    pub address: Option<String>,
    /// Whether it may be the way to the Internet.
    pub is_default: bool,
}

/// What must be in a configuration. What is left out is not compared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// Host name with its domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Names of interfaces, in any order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<String>,
    /// Tags of VLANs, in any order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vlans: Vec<u16>,
}

/// What became of the copy without secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Published {
    /// None is wanted.
    NotWanted,
    /// It was committed.
    Committed {
        /// The commit.
        commit: String,
    },
    /// It equals what was committed before.
    Unchanged {
        /// The newest commit there.
        commit: String,
    },
    /// Something may be a secret; nothing was committed.
    Refused {
        /// Where, never what.
        paths: Vec<String>,
    },
    /// Git failed.
    Failed {
        /// Why, for people.
        reason: String,
    },
}

/// Why a document is no firewall's configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no configuration of OPNsense: {what}")]
pub struct NotAConfig {
    what: String,
}

/// The way to things that are counted; several where OPNsense moved them.
const COUNTED: [(&str, &[&[&str]]); 6] = [
    ("rules", &[&["filter", "rule"], &["OPNsense", "Firewall", "Filter", "rules", "rule"]]),
    ("nat-rules", &[&["nat", "rule"], &["nat", "outbound", "rule"]]),
    (
        "leases",
        &[
            &["dhcpd", "*", "staticmap"],
            &["OPNsense", "Kea", "dhcp4", "reservations", "reservation"],
            &["dnsmasq", "hosts"],
        ],
    ),
    ("users", &[&["system", "user"]]),
    ("aliases", &[&["OPNsense", "Firewall", "Alias", "aliases", "alias"]]),
    ("certificates", &[&["cert"]]),
];

impl Facts {
    /// Of a configuration.
    ///
    /// # Errors
    ///
    /// What every configuration has is missing.
    pub fn of(root: &Element) -> Result<Self, NotAConfig> {
        let missing = |what: &str| NotAConfig { what: what.to_owned() };
        if root.name != "opnsense" {
            return Err(missing(&format!("its root is `{}`, not `opnsense`", root.name)));
        }
        let text = |path: &[&str]| root.text_at(path).map(str::to_owned);
        let host = text(&["system", "hostname"]).ok_or_else(|| missing("no host name"))?;
        let host = match text(&["system", "domain"]) {
            Some(domain) => format!("{host}.{domain}"),
            None => host,
        };
        let time = text(&["revision", "time"]).ok_or_else(|| missing("no time of revision"))?;
        let revision = Revision {
            time,
            user: text(&["revision", "username"]),
            description: text(&["revision", "description"]),
        };
        let interfaces: Vec<Interface> = root
            .child("interfaces")
            .into_iter()
            .flat_map(|all| &all.children)
            .map(interface)
            .collect();
        if interfaces.is_empty() {
            return Err(missing("no interface"));
        }
        let vlans: Vec<Vlan> = root
            .child("vlans")
            .into_iter()
            .flat_map(|all| all.all("vlan"))
            .filter_map(vlan)
            .collect();
        let gateways = gateways(root);
        let mut counts: BTreeMap<String, u64> = COUNTED
            .iter()
            .map(|(name, paths)| {
                let found: usize = paths.iter().map(|path| count(root, path)).sum();
                ((*name).to_owned(), found as u64)
            })
            .collect();
        if counts.get("users").is_none_or(|users| *users == 0) {
            return Err(missing("no user"));
        }
        counts.insert("interfaces".to_owned(), interfaces.len() as u64);
        counts.insert("vlans".to_owned(), vlans.len() as u64);
        counts.insert("gateways".to_owned(), gateways.len() as u64);
        let mut sections: Vec<String> =
            root.children.iter().map(|section| section.name.clone()).collect();
        sections.sort_unstable();
        sections.dedup();
        let version = text(&["version"]);
        Ok(Self { host, version, revision, sections, counts, interfaces, vlans, gateways })
    }

    /// Everything that was counted.
    #[must_use]
    pub fn items(&self) -> u64 {
        self.counts.values().sum()
    }
}

/// In what a restored configuration is not the one that was stored, a sentence each.
#[must_use]
pub fn compare(stored: &Facts, found: &Facts) -> Vec<String> {
    let mut differences = Vec::new();
    let names: std::collections::BTreeSet<&String> =
        stored.counts.keys().chain(found.counts.keys()).collect();
    for name in names {
        let of = |facts: &Facts| facts.counts.get(name).copied().unwrap_or_default();
        if of(stored) != of(found) {
            differences.push(format!("{} {name}, stored were {}", of(found), of(stored)));
        }
    }
    if stored.host != found.host {
        differences.push(format!("the host is {}, stored was {}", found.host, stored.host));
    }
    if stored.revision != found.revision {
        let (of, was) = (&found.revision.time, &stored.revision.time);
        differences.push(format!("the revision is of {of}, stored was one of {was}"));
    }
    if differences.is_empty() && stored != found {
        differences.push("interfaces, VLANs, gateways or sections differ".to_owned());
    }
    differences
}

impl Expected {
    /// In what a configuration is not what its owner expects, a sentence each.
    #[must_use]
    pub fn differences(&self, facts: &Facts) -> Vec<String> {
        let mut differences = Vec::new();
        if let Some(host) = &self.host
            && *host != facts.host
        {
            differences.push(format!("the host is {}, expected is {host}", facts.host));
        }
        let names: Vec<&str> = facts.interfaces.iter().map(|it| it.name.as_str()).collect();
        for name in self.interfaces.iter().filter(|name| !names.contains(&name.as_str())) {
            differences.push(format!("interface `{name}` is expected and not there"));
        }
        let tags: Vec<u16> = facts.vlans.iter().map(|vlan| vlan.tag).collect();
        for tag in self.vlans.iter().filter(|tag| !tags.contains(tag)) {
            differences.push(format!("VLAN {tag} is expected and not there"));
        }
        for tag in tags.iter().filter(|tag| !self.vlans.is_empty() && !self.vlans.contains(tag)) {
            differences.push(format!("VLAN {tag} is there and not expected"));
        }
        differences
    }
}

fn interface(element: &Element) -> Interface {
    let text = |name: &str| element.text_at(&[name]).map(str::to_owned);
    let ipv4 = match (text("ipaddr"), text("subnet")) {
        (Some(address), Some(prefix)) => Some(format!("{address}/{prefix}")),
        (address, _) => address,
    };
    Interface {
        name: element.name.clone(),
        device: text("if"),
        description: text("descr"),
        enabled: is_on(element, "enable"),
        ipv4,
    }
}

fn vlan(element: &Element) -> Option<Vlan> {
    let text = |name: &str| element.text_at(&[name]).map(str::to_owned);
    Some(Vlan {
        tag: element.text_at(&["tag"])?.parse().ok()?,
        parent: text("if"),
        device: text("vlanif"),
        description: text("descr"),
    })
}

fn gateways(root: &Element) -> Vec<Gateway> {
    let places = [root.at(&["gateways"]), root.at(&["OPNsense", "Gateways"])];
    let items = places.into_iter().flatten().flat_map(|place| place.all("gateway_item"));
    let gateway = |element: &Element| {
        let text = |name: &str| element.text_at(&[name]).map(str::to_owned);
        Some(Gateway {
            name: text("name")?,
            interface: text("interface"),
            address: text("gateway").filter(|address| address != "dynamic"),
            is_default: is_on(element, "defaultgw"),
        })
    };
    items.filter_map(gateway).collect()
}

/// An element that is there without a text counts as set; `0` does not.
fn is_on(element: &Element, name: &str) -> bool {
    element.child(name).is_some_and(|flag| flag.text.trim() != "0")
}

fn count(element: &Element, path: &[&str]) -> usize {
    let Some((name, below)) = path.split_first() else { return 1 };
    let fits = |child: &&Element| *name == "*" || child.name == *name;
    element.children.iter().filter(fits).map(|child| count(child, below)).sum()
}

#[cfg(test)]
mod tests {
    use super::{super::sample, *};

    fn facts(text: &str) -> Result<Facts, NotAConfig> {
        Facts::of(&Element::parse(text.as_bytes()).expect("a document"))
    }

    #[test]
    fn a_configuration_is_counted() {
        let facts = facts(&sample::config()).expect("facts");
        assert_eq!(facts.host, "fw.home.example");
        assert_eq!(facts.counts["rules"], 3);
        assert_eq!(facts.counts["leases"], 2);
        assert_eq!(facts.vlans.iter().map(|vlan| vlan.tag).collect::<Vec<_>>(), [30, 20]);
        assert_eq!(facts.interfaces[1].ipv4.as_deref(), Some("192.168.0.1/16"));
        assert_eq!(facts.gateways[0].name, "WAN_GW");
        assert!(facts.interfaces[0].enabled && !facts.interfaces[3].enabled);
    }

    #[test]
    fn what_lacks_the_essentials_is_no_configuration() {
        assert!(facts("<html/>").expect_err("no").to_string().contains("`html`"));
        for (gone, what) in [
            ("<hostname>fw</hostname>", "host name"),
            ("<time>1763865600.1234</time>", "revision"),
            ("<name>root</name>", ""),
        ] {
            let text = sample::config().replace(gone, "");
            let outcome = facts(&text);
            assert_eq!(outcome.is_err(), !what.is_empty(), "{gone}");
            if let Err(error) = outcome {
                assert!(error.to_string().contains(what), "{error}");
            }
        }
    }

    #[test]
    fn what_is_missing_after_a_restore_shows() {
        let stored = facts(&sample::config()).expect("facts");
        let without = sample::config().replacen("<rule><type>pass</type></rule>", "", 1);
        let found = facts(&without).expect("facts");
        assert_eq!(compare(&stored, &stored), Vec::<String>::new());
        assert_eq!(compare(&stored, &found), ["2 rules, stored were 3"]);
        let renamed = sample::config().replace("LAN-USER", "LAN-OTHER");
        assert_eq!(compare(&stored, &facts(&renamed).expect("facts")).len(), 1);
    }

    #[test]
    fn the_inventory_of_the_owner_is_compared_too() {
        let facts = facts(&sample::config()).expect("facts");
        let expected = Expected {
            host: Some("fw.home.example".to_owned()),
            interfaces: vec!["lan".to_owned(), "opt9".to_owned()],
            vlans: vec![30, 90],
        };
        let differences = expected.differences(&facts);
        assert_eq!(
            differences,
            [
                "interface `opt9` is expected and not there",
                "VLAN 90 is expected and not there",
                "VLAN 20 is there and not expected"
            ]
        );
        assert_eq!(Expected::default().differences(&facts), Vec::<String>::new());
    }
}
