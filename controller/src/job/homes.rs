//! Where conversations were answered last.

use std::collections::HashMap;

use homelab_domain::{
    ids::HostName,
    job::{Job, JobSpec},
};

/// So many conversations are remembered; the older half of them is forgotten when there are more.
const REMEMBERED_MAX: usize = 4_096;

/// The hosts that conversations were answered by, in memory only: a wrong or forgotten one costs the
/// time to read the conversation again, nothing else.
#[derive(Debug, Default)]
pub(super) struct Homes {
    hosts: HashMap<String, (HostName, u64)>,
    /// Counts what was noted, to know what is old.
    noted: u64,
}

impl Homes {
    /// The conversation of a job is answered there.
    pub(super) fn note(&mut self, chat: &str, host: &HostName) {
        self.noted += 1;
        self.hosts.insert(chat.to_owned(), (host.clone(), self.noted));
        if self.hosts.len() > REMEMBERED_MAX {
            let mut stamps: Vec<u64> = self.hosts.values().map(|(_, stamp)| *stamp).collect();
            let (_, middle, _) = stamps.select_nth_unstable(REMEMBERED_MAX / 2);
            let middle = *middle;
            self.hosts.retain(|_, (_, stamp)| *stamp > middle);
        }
    }

    /// Where the conversation of a job was answered last.
    pub(super) fn of(&self, spec: &JobSpec) -> Option<HostName> {
        let chat = spec.terms.chat.as_ref()?;
        self.hosts.get(chat).map(|(host, _)| host.clone())
    }

    /// The same for many, by conversation.
    pub(super) fn of_all(&self, jobs: &[Job]) -> HashMap<String, HostName> {
        let chats = jobs.iter().filter_map(|job| job.spec().terms.chat.as_ref());
        chats.filter_map(|chat| Some((chat.clone(), self.hosts.get(chat)?.0.clone()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_conversations_are_remembered_and_never_too_many() {
        let (x99, nas) = ("x99".parse().expect("a name"), "cw-nas".parse().expect("a name"));
        let mut homes = Homes::default();
        for number in 0..10_000 {
            homes.note(&format!("chat-{number}"), if number % 2 == 0 { &x99 } else { &nas });
            assert!(homes.hosts.len() <= REMEMBERED_MAX);
        }
        assert_eq!(homes.hosts.get("chat-9999").map(|(host, _)| host), Some(&nas));
        assert!(!homes.hosts.contains_key("chat-0"));
    }
}
