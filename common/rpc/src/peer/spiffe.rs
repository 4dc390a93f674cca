//! Identities as text: `spiffe://<site>/<kind>/<name>[/<role>[+approver]]`.

use std::{fmt, str::FromStr};

use homelab_proto::common::v1::PeerKind;

/// The longest name and site, in characters: what fits into one DNS label.
const NAME_MAX: usize = 63;

const SCHEME: &str = "spiffe://";

/// What kind of party a certificate belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A `homelab-agent`.
    Agent,
    /// A `homelab-backup-agent`.
    BackupAgent,
    /// A `homelab-gpu-worker`.
    GpuWorker,
    /// The controller.
    Controller,
    /// A person.
    User,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] =
        [Self::Agent, Self::BackupAgent, Self::GpuWorker, Self::Controller, Self::User];

    /// As in a SPIFFE id: `backup-agent`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::BackupAgent => "backup-agent",
            Self::GpuWorker => "gpu-worker",
            Self::Controller => "controller",
            Self::User => "user",
        }
    }

    /// As in the protocol.
    #[must_use]
    pub const fn to_proto(self) -> PeerKind {
        match self {
            Self::Agent => PeerKind::Agent,
            Self::BackupAgent => PeerKind::BackupAgent,
            Self::GpuWorker => PeerKind::GpuWorker,
            Self::Controller => PeerKind::Controller,
            Self::User => PeerKind::User,
        }
    }

    /// From the protocol; `None` for "unspecified".
    #[must_use]
    pub const fn from_proto(kind: PeerKind) -> Option<Self> {
        match kind {
            PeerKind::Unspecified => None,
            PeerKind::Agent => Some(Self::Agent),
            PeerKind::BackupAgent => Some(Self::BackupAgent),
            PeerKind::GpuWorker => Some(Self::GpuWorker),
            PeerKind::Controller => Some(Self::Controller),
            PeerKind::User => Some(Self::User),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = InvalidSpiffeId;

    fn from_str(text: &str) -> Result<Self, InvalidSpiffeId> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| InvalidSpiffeId::Kind { seen: text.into() })
    }
}

/// What a person may do; each includes those before it. Being an approver stands beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Reads everything but secrets.
    Viewer,
    /// Runs backups, drills, jobs and checks.
    Operator,
    /// Changes identities, phases and the site.
    Admin,
}

impl Role {
    /// Every role, least first.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    /// As in a SPIFFE id: `operator`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = InvalidSpiffeId;

    fn from_str(text: &str) -> Result<Self, InvalidSpiffeId> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| InvalidSpiffeId::Role { seen: text.into() })
    }
}

/// The name of a homelab, the trust domain of its SPIFFE ids: 1 to 63 of `a-z`, `0-9`, `-` and
/// `.`, beginning and ending with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteName(String);

impl SiteName {
    /// Checks the rule.
    ///
    /// # Errors
    ///
    /// Names the rule that `text` breaks.
    pub fn try_new(text: &str) -> Result<Self, InvalidSpiffeId> {
        let plain =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
        if is_name(text, plain) {
            return Ok(Self(text.into()));
        }
        Err(InvalidSpiffeId::Site { seen: text.into() })
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SiteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SiteName {
    type Err = InvalidSpiffeId;

    fn from_str(text: &str) -> Result<Self, InvalidSpiffeId> {
        Self::try_new(text)
    }
}

/// The name of a host or of a person within a site.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerName(String);

impl PeerName {
    /// A host: 1 to 63 of `a-z`, `0-9` and `-`, beginning and ending with a letter or digit.
    ///
    /// # Errors
    ///
    /// Names the rule that `text` breaks.
    pub fn host(text: &str) -> Result<Self, InvalidSpiffeId> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if is_name(text, plain) {
            return Ok(Self(text.into()));
        }
        Err(InvalidSpiffeId::Host { seen: text.into() })
    }

    /// A person: as a host, and `.` and `_` besides.
    ///
    /// # Errors
    ///
    /// Names the rule that `text` breaks.
    pub fn user(text: &str) -> Result<Self, InvalidSpiffeId> {
        let plain =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.' | '_');
        if is_name(text, plain) {
            return Ok(Self(text.into()));
        }
        Err(InvalidSpiffeId::User { seen: text.into() })
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_name(text: &str, plain: impl Fn(char) -> bool) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    text.len() <= NAME_MAX
        && edge(text.chars().next())
        && edge(text.chars().next_back())
        && text.chars().all(plain)
}

/// Why a text is not an identity of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSpiffeId {
    /// Another scheme, or parts missing or too many.
    #[error(
        "`{seen}` is not `spiffe://SITE/KIND/NAME` or `spiffe://SITE/user/NAME/ROLE[+approver]`"
    )]
    Shape {
        /// What was given.
        seen: String,
    },
    /// The site is not a name.
    #[error(
        "`{seen}` is not a site name: 1 to 63 of a-z, 0-9, `-` and `.`, \
         beginning and ending with a letter or digit"
    )]
    Site {
        /// What was given.
        seen: String,
    },
    /// The kind is unknown.
    #[error("`{seen}` is not a kind: agent, backup-agent, gpu-worker, controller or user")]
    Kind {
        /// What was given.
        seen: String,
    },
    /// The host is not a name.
    #[error(
        "`{seen}` is not a host name: 1 to 63 of a-z, 0-9 and `-`, \
         beginning and ending with a letter or digit"
    )]
    Host {
        /// What was given.
        seen: String,
    },
    /// The person is not a name.
    #[error(
        "`{seen}` is not a user name: 1 to 63 of a-z, 0-9, `-`, `.` and `_`, \
         beginning and ending with a letter or digit"
    )]
    User {
        /// What was given.
        seen: String,
    },
    /// The role is unknown.
    #[error("`{seen}` is not a role: viewer, operator or admin, with `+approver` or without")]
    Role {
        /// What was given.
        seen: String,
    },
    /// A daemon was given a role, or `user` no role.
    #[error("a user has a role, a {kind} has none")]
    Grant {
        /// The kind.
        kind: Kind,
    },
}

/// An identity: `spiffe://<site>/<kind>/<name>`, for people
/// `spiffe://<site>/user/<name>/<role>[+approver]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    site: SiteName,
    kind: Kind,
    name: PeerName,
    grant: Option<Grant>,
}

/// What a person was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Grant {
    /// The role.
    pub role: Role,
    /// Whether the person may approve gates, waivers and steps as well.
    pub approver: bool,
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.role, if self.approver { "+approver" } else { "" })
    }
}

impl FromStr for Grant {
    type Err = InvalidSpiffeId;

    fn from_str(text: &str) -> Result<Self, InvalidSpiffeId> {
        let (role, approver) = match text.strip_suffix("+approver") {
            Some(role) => (role, true),
            None => (text, false),
        };
        Ok(Self { role: role.parse()?, approver })
    }
}

impl SpiffeId {
    /// The identity of a daemon.
    ///
    /// # Errors
    ///
    /// The name is not a host name, or the kind is `user`.
    pub fn daemon(site: SiteName, kind: Kind, name: &str) -> Result<Self, InvalidSpiffeId> {
        if kind == Kind::User {
            return Err(InvalidSpiffeId::Grant { kind });
        }
        Ok(Self { site, kind, name: PeerName::host(name)?, grant: None })
    }

    /// The identity of a person.
    ///
    /// # Errors
    ///
    /// The name is not a user name.
    pub fn user(site: SiteName, name: &str, grant: Grant) -> Result<Self, InvalidSpiffeId> {
        Ok(Self { site, kind: Kind::User, name: PeerName::user(name)?, grant: Some(grant) })
    }

    /// The identity of root on a daemon's unix socket. No certificate can carry its name.
    pub(super) fn local_root(site: SiteName) -> Self {
        let grant = Some(Grant { role: Role::Admin, approver: true });
        Self { site, kind: Kind::User, name: PeerName("root@local".into()), grant }
    }

    /// The homelab that it belongs to.
    #[must_use]
    pub const fn site(&self) -> &SiteName {
        &self.site
    }

    /// What kind of party it is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The host or the person.
    #[must_use]
    pub const fn name(&self) -> &PeerName {
        &self.name
    }

    /// The role of a person; `None` for daemons.
    #[must_use]
    pub fn role(&self) -> Option<Role> {
        self.grant.map(|grant| grant.role)
    }

    /// Whether a person may approve.
    #[must_use]
    pub fn approver(&self) -> bool {
        self.grant.is_some_and(|grant| grant.approver)
    }

    /// What a person was granted; `None` for daemons.
    #[must_use]
    pub const fn grant(&self) -> Option<Grant> {
        self.grant
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}/{}", self.site, self.kind, self.name)?;
        match self.grant {
            Some(grant) => write!(f, "/{grant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidSpiffeId;

    fn from_str(text: &str) -> Result<Self, InvalidSpiffeId> {
        let shape = || InvalidSpiffeId::Shape { seen: text.into() };
        let parts: Vec<&str> = text.strip_prefix(SCHEME).ok_or_else(shape)?.split('/').collect();
        let (site, kind, name, grant) = match parts.as_slice() {
            [site, kind, name] => (site, kind.parse()?, name, None),
            [site, kind, name, grant] => (site, kind.parse()?, name, Some(grant)),
            _ => return Err(shape()),
        };
        let site = SiteName::try_new(site)?;
        match (kind, grant) {
            (Kind::User, Some(grant)) => Self::user(site, name, grant.parse()?),
            (Kind::User, None) | (_, Some(_)) => Err(InvalidSpiffeId::Grant { kind }),
            (kind, None) => Self::daemon(site, kind, name),
        }
    }
}
