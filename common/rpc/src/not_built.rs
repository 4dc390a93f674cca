//! What a daemon has in its protocol and not in its code: one list, which the server answers
//! from, `GetNode` shows and a test reads.

use homelab_proto::access::method;
use tonic::Status;

use crate::status;

/// One method that is not built yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotBuilt {
    /// As on the wire: `/homelab.agent.v1.PowerService/Wake`.
    pub method: &'static str,
    /// What to do meanwhile, as a clause: `wake the host by hand`.
    pub instead: &'static str,
}

impl NotBuilt {
    /// A row of the list.
    #[must_use]
    pub const fn new(method: &'static str, instead: &'static str) -> Self {
        Self { method, instead }
    }

    /// What the method answers.
    #[must_use]
    pub fn status(&self) -> Status {
        status::not_built_yet(self.method, self.instead)
    }
}

/// The row of a method, by its path on the wire.
#[must_use]
pub fn find<'l>(list: &'l [NotBuilt], path: &str) -> Option<&'l NotBuilt> {
    list.iter().find(|row| row.method == path)
}

/// Rows that name no method of the protocol: for the test of each daemon.
#[must_use]
pub fn strangers(list: &[NotBuilt]) -> Vec<&'static str> {
    list.iter().map(|row| row.method).filter(|path| method(path).is_none()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::reason_of;

    const LIST: &[NotBuilt] = &[
        NotBuilt::new("/homelab.agent.v1.PowerService/Wake", "wake the host by hand"),
        NotBuilt::new("/homelab.agent.v1.PowerService/Fly", "take a plane"),
    ];

    #[test]
    fn a_method_of_the_list_says_what_to_do_meanwhile() {
        let row = find(LIST, "/homelab.agent.v1.PowerService/Wake").expect("is in the list");
        let status = row.status();
        assert_eq!(reason_of(&status).as_deref(), Some("NOT_BUILT_YET"));
        assert!(status.message().ends_with("wake the host by hand"), "{}", status.message());
        assert_eq!(find(LIST, "/homelab.agent.v1.PowerService/PowerOff"), None);
    }

    #[test]
    fn a_row_that_names_no_method_is_found() {
        assert_eq!(strangers(LIST), ["/homelab.agent.v1.PowerService/Fly"]);
    }
}
