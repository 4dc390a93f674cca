//! The protocol of homelab: the `.proto` files of `homelab/` and the code generated from them,
//! nothing else.
//!
//! The comments in the `.proto` files are the manual of the API; they appear here as rustdoc and in
//! `grpcurl describe` by reflection. Who may call a method stands beside it, in its `access`
//! option, and becomes [`access::METHODS`].

/// What every daemon shares.
pub mod common {
    /// Version 1.
    #[expect(unused_qualifications, clippy::allow_attributes, reason = "generated")]
    pub mod v1 {
        tonic::include_proto!("homelab.common.v1");
    }
}

/// `homelab-agent`.
pub mod agent {
    /// Version 1.
    #[expect(unused_qualifications, clippy::allow_attributes, reason = "generated")]
    pub mod v1 {
        tonic::include_proto!("homelab.agent.v1");
    }
}

/// `homelab-backup-agent`.
pub mod backup {
    /// Version 1.
    #[expect(
        unused_qualifications,
        clippy::allow_attributes,
        clippy::large_enum_variant,
        reason = "generated"
    )]
    pub mod v1 {
        tonic::include_proto!("homelab.backup.v1");
    }
}

/// `homelab-gpu-worker`.
pub mod inference {
    /// Version 1.
    #[expect(unused_qualifications, clippy::allow_attributes, reason = "generated")]
    pub mod v1 {
        tonic::include_proto!("homelab.inference.v1");
    }
}

/// `homelab-controller`.
pub mod controller {
    /// Version 1.
    #[expect(
        unused_qualifications,
        clippy::allow_attributes,
        clippy::large_enum_variant,
        reason = "generated"
    )]
    pub mod v1 {
        tonic::include_proto!("homelab.controller.v1");
    }
}

pub mod access;

/// Encoded `FileDescriptorSet`s with comments, for reflection: one for each daemon, and all of them.
pub mod descriptors {
    /// Served by `homelab-agent`.
    pub const AGENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/agent.binpb"));
    /// Served by `homelab-backup-agent`.
    pub const BACKUP: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/backup.binpb"));
    /// Served by `homelab-gpu-worker`.
    pub const INFERENCE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/inference.binpb"));
    /// Served by `homelab-controller`.
    pub const CONTROLLER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/controller.binpb"));
    /// The whole protocol.
    pub const ALL: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/homelab.binpb"));
}
