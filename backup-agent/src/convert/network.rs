//! Manifests of what is reached over the network.

use homelab_proto::backup::v1 as pb;
use homelab_rpc::node::to_proto;

use crate::{
    manifest::Manifest,
    source::{
        git::manifest::{GitContents, MirrorContents, MirrorState},
        opnsense::{
            CONFIG_FILE,
            manifest::{OpnsenseContents, Published},
        },
    },
    stream::Sha256,
};

pub(super) fn git(contents: &GitContents) -> pb::GitManifest {
    let repository = |mirror: &MirrorContents| {
        let lines: String =
            mirror.refs.iter().map(|(name, id)| format!("{id}\trefs/{name}\n")).collect();
        let below = mirror.folder.trim_end_matches(".git");
        pb::GitRepository {
            name: below.to_owned(),
            origin: format!("{}/{}", contents.remote, mirror.folder),
            references: mirror.refs.len() as u64,
            references_digest: Sha256::of(lines.as_bytes()).to_string(),
            kept_references: mirror.kept.len() as u64,
            lfs_objects: mirror.lfs_objects,
            lfs_bytes: mirror.lfs_bytes,
            empty: mirror.refs.is_empty(),
            gone: mirror.state == MirrorState::GoneUpstream,
        }
    };
    pb::GitManifest { repositories: contents.repositories.iter().map(repository).collect() }
}

pub(super) fn opnsense(manifest: &Manifest, contents: &OpnsenseContents) -> pb::OpnsenseManifest {
    let facts = &contents.facts;
    let count = |what: &str| {
        let count = facts.counts.get(what).copied().unwrap_or_default();
        u32::try_from(count).unwrap_or(u32::MAX)
    };
    let file = manifest.files.iter().find(|file| file.name == CONFIG_FILE);
    let commit = match &contents.redacted {
        Published::Committed { commit } | Published::Unchanged { commit } => commit.clone(),
        Published::NotWanted | Published::Refused { .. } | Published::Failed { .. } => {
            String::new()
        }
    };
    pb::OpnsenseManifest {
        hostname: facts.host.clone(),
        version: facts.version.clone().unwrap_or_default(),
        revised_at: facts.revision.moment().map(to_proto),
        sha256: file.map(|file| file.sha256.to_string()).unwrap_or_default(),
        interfaces: count("interfaces"),
        rules: count("rules"),
        users: count("users"),
        redacted: u32::try_from(contents.masked).unwrap_or(u32::MAX),
        commit,
    }
}
