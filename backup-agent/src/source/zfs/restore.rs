//! Putting a dataset back, by hand, with `zfs` and `restic` alone.

use std::path::Path;

use super::manifest::ZfsContents;
use crate::shell::{comment, quoted};

/// Where the printed commands restore to: never over the dataset itself.
const SUFFIX: &str = "-restored";

/// Commands for a person with ZFS's own program and nothing of ours.
pub(crate) fn next_steps(folder: &Path, contents: &ZfsContents) -> Vec<String> {
    let dataset = &contents.dataset;
    let target = format!("{dataset}{SUFFIX}");
    let mut steps = Vec::new();
    match (&contents.stream, &contents.replica) {
        (Some(stream), _) => {
            for (number, needed) in stream.needs.iter().enumerate() {
                let run = needed.run;
                if number == 0 {
                    steps.push(comment(&format!(
                        "this stream builds on {} earlier ones; first receive those, in this order, \
                         with RESTIC_REPOSITORY and RESTIC_PASSWORD_FILE set",
                        stream.needs.len()
                    )));
                }
                let path = quoted(&stream.path);
                steps.push(format!(
                    "restic dump --tag homelab,verified,run={run} latest {path} | zfs receive -u \
                     {target}"
                ));
            }
            let file = quoted(&folder.join(&stream.file).display().to_string());
            steps.push(format!("zfs receive -u {target} < {file}"));
        }
        (None, Some(replica)) => {
            let copy = replica.dataset.at(&contents.snapshot.name);
            let there = match &replica.host {
                Some(host) => format!("ssh {} zfs send -w {copy}", quoted(host)),
                None => format!("zfs send -w {copy}"),
            };
            steps.push(comment("nothing of the data is in this folder: it is in the copy"));
            steps.push(format!("{there} | zfs receive -u {target}"));
        }
        (None, None) => {}
    }
    steps.push(format!(
        "zfs get -H -o value guid {}   # must print {}",
        quoted(&format!("{target}@{}", contents.snapshot.name)),
        contents.snapshot.guid
    ));
    for (name, value) in &contents.properties {
        if is_settable(name) {
            steps.push(format!("zfs set {} {target}", quoted(&format!("{name}={value}"))));
        }
    }
    if let Some(encryption) = &contents.encryption {
        let text = format!("the dataset is encrypted ({encryption}); its own key opens it");
        steps.push(comment(&text));
        steps.push(format!("zfs load-key {target}"));
    }
    if !contents.volume {
        steps.push(format!("zfs mount {target}"));
    }
    steps.push(comment(&format!(
        "when all is well: zfs rename {dataset} {dataset}-old; zfs rename {target} {dataset}"
    )));
    steps
}

/// What is fixed when a dataset is made came with the stream; a mountpoint would put
/// the restored one over the living one, and a key needs its own command.
fn is_settable(property: &str) -> bool {
    let fixed = [
        "volsize",
        "volblocksize",
        "casesensitivity",
        "normalization",
        "utf8only",
        "mountpoint",
        "canmount",
        "encryption",
        "keyformat",
        "keylocation",
        "pbkdf2iters",
        "readonly",
    ];
    !fixed.contains(&property)
}
