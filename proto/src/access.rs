//! Who may call what: the `access` options of the `.proto` files as one table.

use crate::common::v1::{PeerKind, Role};

/// One method of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// As on the wire: `/homelab.agent.v1.HostService/GetHealth`.
    pub path: &'static str,
    /// Who may call it; `None` means that nobody may.
    pub access: Option<Access>,
    /// Whether it answers with a stream.
    pub server_streaming: bool,
}

/// The `access` option of one method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The least role that a person needs; `None` means that no person may call.
    pub role: Option<Role>,
    /// Kinds of daemon that may call as well.
    pub kinds: &'static [PeerKind],
    /// A caller without a certificate is let in.
    pub anonymous: bool,
    /// A call changes something and is audited.
    pub mutates: bool,
}

include!(concat!(env!("OUT_DIR"), "/methods.rs"));

/// The row of a method, by its path on the wire.
#[must_use]
pub fn method(path: &str) -> Option<&'static Method> {
    METHODS.binary_search_by(|row| row.path.cmp(path)).ok().and_then(|index| METHODS.get(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_is_found_by_its_path() {
        let row = method("/homelab.agent.v1.HostService/GetHealth").expect("is in the table");
        let access = row.access.expect("has the option");
        assert_eq!(access.role, Some(Role::Viewer));
        assert_eq!(access.kinds, [PeerKind::Controller]);
        assert!(!access.mutates);
    }

    #[test]
    fn an_unknown_path_has_no_row() {
        assert_eq!(method("/homelab.agent.v1.HostService/Nope"), None);
    }

    #[test]
    fn every_method_says_who_may_call_it() {
        let silent: Vec<_> =
            METHODS.iter().filter(|row| row.access.is_none()).map(|row| row.path).collect();
        assert!(silent.is_empty(), "no access option: {silent:?}");
    }

    #[test]
    fn only_enrolment_lets_strangers_in() {
        let open: Vec<_> = METHODS
            .iter()
            .filter(|row| row.access.is_some_and(|access| access.anonymous))
            .map(|row| row.path)
            .collect();
        assert_eq!(
            open,
            [
                "/homelab.controller.v1.EnrolmentService/BeginEnrolment",
                "/homelab.controller.v1.EnrolmentService/FinishEnrolment",
            ]
        );
    }
}
