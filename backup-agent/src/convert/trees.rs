//! Manifests of trees of files, and of what is mostly one.

use homelab_proto::backup::v1 as pb;

use crate::{
    source::{
        files::manifest::FilesContents,
        vaultwarden::manifest::{UploadKind, VaultwardenContents, orphans},
    },
    stream::Sha256,
    tree::{Entry, What},
};

pub(super) fn files(contents: &FilesContents) -> pb::FilesManifest {
    let roots = contents.roots.iter().map(ToString::to_string).collect();
    tree(roots, &contents.entries)
}

pub(super) fn vaultwarden(contents: &VaultwardenContents) -> pb::VaultwardenManifest {
    let rows = |row: &crate::source::vaultwarden::manifest::TableRows| pb::TableRows {
        name: row.table.clone(),
        rows: row.rows,
    };
    let attachments = contents.uploads.iter().filter(|it| it.kind == UploadKind::Attachment);
    let has = |path: &str| contents.entries.iter().any(|entry| &*entry.path == path);
    let database = if contents.postgres.is_some() { "postgresql" } else { "sqlite" };
    pb::VaultwardenManifest {
        database: database.to_owned(),
        tables: contents.tables.iter().map(rows).collect(),
        users: contents.rows("users"),
        ciphers: contents.rows("ciphers"),
        attachments: contents.uploads_of(UploadKind::Attachment),
        attachment_bytes: attachments.map(|it| it.bytes).sum(),
        file_sends: contents.uploads_of(UploadKind::Send),
        orphans: orphans(&contents.uploads, &contents.entries).len() as u64,
        has_key: has("rsa_key.pem") || has("rsa_key.der"),
        has_config: has("config.json"),
        files: Some(tree(vec![contents.folder.to_string()], &contents.entries)),
    }
}

fn tree(roots: Vec<String>, entries: &[Entry]) -> pb::FilesManifest {
    let mut message = pb::FilesManifest { roots, ..pb::FilesManifest::default() };
    let mut listing = String::new();
    for entry in entries {
        match entry.what {
            What::Folder => message.folders += 1,
            What::Symlink { .. } => message.links += 1,
            What::File { .. } | What::HardLink { .. } => message.files += 1,
        }
        message.bytes += entry.bytes();
        listing.push_str(&entry.to_string());
        listing.push('\n');
    }
    message.listing_digest = Sha256::of(listing.as_bytes()).to_string();
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(line: &str) -> Entry {
        line.parse().expect("a line of a manifest")
    }

    #[test]
    fn what_a_tree_holds_is_counted_by_kind() {
        let digest = "00".repeat(32);
        let entries = [
            entry("d 0755 0:0 0 etc"),
            entry(&format!("f 0644 0:0 0 etc/one 5 {digest}")),
            entry("h 0644 0:0 0 etc/two etc/one"),
            entry("l 0777 0:0 0 etc/three one"),
        ];
        let message = tree(vec!["/etc".to_owned()], &entries);
        let counts = (message.folders, message.files, message.links, message.bytes);
        assert_eq!(counts, (1, 2, 1, 5));
        let other = tree(vec!["/etc".to_owned()], &entries[..3]);
        assert_ne!(message.listing_digest, other.listing_digest);
    }
}
