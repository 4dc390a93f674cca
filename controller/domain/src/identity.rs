//! Who somebody is and what they may do.

use crate::site::DaemonKind;

crate::words! {
    /// Kinds of peer.
    PeerKind {
        /// Health, inventory, checks, network and power.
        Agent = "agent",
        /// Backups, restores and drills.
        BackupAgent = "backup-agent",
        /// Inference.
        GpuWorker = "gpu-worker",
        /// The controller.
        Controller = "controller",
        /// A person.
        User = "user",
    }
}

crate::words! {
    /// What a person may do. Whether they approve as well is said beside it.
    Role {
        /// Look.
        Viewer = "viewer",
        /// Act, within what is declared.
        Operator = "operator",
        /// Everything but approve.
        Admin = "admin",
    }
}

impl PeerKind {
    /// The daemon of that kind; none for the controller and people.
    #[must_use]
    pub const fn daemon(self) -> Option<DaemonKind> {
        match self {
            Self::Agent => Some(DaemonKind::Agent),
            Self::BackupAgent => Some(DaemonKind::BackupAgent),
            Self::GpuWorker => Some(DaemonKind::GpuWorker),
            Self::Controller | Self::User => None,
        }
    }
}

impl From<DaemonKind> for PeerKind {
    fn from(kind: DaemonKind) -> Self {
        match kind {
            DaemonKind::Agent => Self::Agent,
            DaemonKind::BackupAgent => Self::BackupAgent,
            DaemonKind::GpuWorker => Self::GpuWorker,
        }
    }
}
